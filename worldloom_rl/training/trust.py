"""What a run's files make Python import, or lead out of the run to: only where this user named or trusted it before.

The environment "module:Id" of a config.json imports that module, so that a run of somebody else could run any code.
What `worldloom train` was told here, or a command with --trust, is remembered with the files where it lies, in
worldloom/trusted.json under $XDG_STATE_HOME (~/.local/state): a run may be moved, a module of that name may not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Protocol

from worldloom_rl.atomic import write_text
from worldloom_rl.config import Json

_NAMING = ("env", "task", "eval", "policy")  # begins of names of fields that may name a module
_MODULE = re.compile(r"([^\W\d][\w.]*):")
_JOINS = "the Ray at "  # before the address of a cluster, among names of modules
_MOST = 1000  # entries that are remembered

Places = list[str]


class _Finder(Protocol):
    """What stands in `sys.meta_path`."""

    def find_spec(self, name: str, path: list[str] | None, /) -> ModuleSpec | None: ...


_in_this_process: set[str] = set()  # where no file can be written


def in_a_run() -> bool:
    """Whether the current directory belongs to a run, which may be somebody else's: nothing is imported from there."""
    here = Path.cwd()
    return any(
        (folder / "config.json").exists() and (folder / "checkpoints").exists() for folder in (here, *here.parents)
    )


def remember(run: Path, config: Mapping[str, Json]) -> None:
    """From now on, runs may import what this one does, from the same files."""
    _remember(_wanted(run, config))


def remember_modules(config: Mapping[str, Json]) -> None:
    """From now on, runs may import the modules that this configuration names, which this user told us."""
    _remember(_imported(config))


def _remember(wanted: Mapping[str, Places]) -> None:
    entries = [_entry(name, places) for name, places in wanted.items()]
    _in_this_process.update(entries)
    new = [entry for entry in entries if entry not in _remembered()]
    if new:
        with contextlib.suppress(OSError, RuntimeError):  # a home that is not there, or read-only: asked again then
            file = _file()
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text(file, json.dumps([*_remembered(), *new][-_MOST:], indent=1))


def trust(run: Path, config: Mapping[str, Json]) -> None:
    """As `remember`, of somebody else's run. Raises ValueError if what it imports lies in the run itself."""
    _refuse_inside(run, _wanted(run, config))
    remember(run, config)


def require_trust(run: Path, config: Mapping[str, Json]) -> None:
    """Raise ValueError if the run imports a module, or leads to files, that this user neither named nor trusted."""
    known = {*_in_this_process, *_remembered()}
    new = {name: places for name, places in _wanted(run, config).items() if _entry(name, places) not in known}
    _refuse_inside(run, new)
    for name, places in new.items():
        if name.startswith("/"):
            does = f"has the link {name[-80:]}, which is a link to {places[-1][-80:]}"
        elif name.startswith(_JOINS):
            does = f"joins {name[:80]}, which may run any code"
        else:
            does = f"imports {name!r:.80}, which may run any code"
        raise ValueError(
            f"{str(run)[-80:]} may be somebody else's, and {does}: look at it, then repeat the command with --trust."
        )


def _refuse_inside(run: Path, wanted: Mapping[str, Places]) -> None:
    for name, places in wanted.items():
        if any(Path(place).resolve().is_relative_to(run.resolve()) for place in places):
            raise ValueError(
                f"{str(run)[-80:]} names the module {name!r:.80}, which lies in the run itself and is never imported "
                "from there. If you know what it does, install it or copy it elsewhere."
            )


def _wanted(run: Path, config: Mapping[str, Json]) -> dict[str, Places]:
    """Modules with the files that importing them runs, and links that lead out of the run with where they lead."""
    wanted = _imported(config)
    for link in _links(run):
        if not link.resolve().is_relative_to(run.resolve()):
            wanted[str(link.absolute())] = [str(link.resolve())]
    return wanted


def _imported(config: Mapping[str, Json]) -> dict[str, Places]:
    """The modules that a configuration names, with the files that importing them runs, and the cluster it joins."""
    found: dict[str, Places] = {}
    for field, value in config.items():
        if field.startswith(_NAMING):
            for text in _texts(value):
                for module in _modules(text):
                    places = _places(module)
                    if places and module.partition(".")[0] != "worldloom_rl":
                        found[module] = places
    if address := config.get("ray"):
        found[f"{_JOINS}{address}"] = []
    return found


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _modules(text: str) -> set[str]:
    """What could be a module in the name of an environment, "module:Id", or in an argument of its constructor."""
    from worldloom_rl.envs import atari  # here: it brings TorchRL

    families = {"dmc", "crafter", *atari.PRESETS}
    name = text.rpartition("=")[2]
    return {module for module in (name.rpartition(":")[0], *_MODULE.findall(text)) if module} - families


def _places(module: str) -> Places:
    """The files that importing a module would run, its packages' first; nothing is imported. Empty if there is none."""
    places: Places = []
    first, *others = module.split(".")
    spec = next((found for finder in sys.meta_path if (found := _spec(finder, first, None)) is not None), None)
    while spec is not None:
        folders = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        places += [spec.origin] if spec.origin else folders or []
        if not others:
            whole = (str(Path(place).absolute()) if os.sep in place else place for place in places)
            return list(dict.fromkeys(whole))  # a namespace is found once for each way to it
        # By its last name, for what a namespace's full name means is known only when that is imported.
        spec = None if folders is None else _spec(PathFinder, others.pop(0), folders)
    return []


def _spec(finder: _Finder, name: str, folders: list[str] | None) -> ModuleSpec | None:
    try:
        return finder.find_spec(name, folders)
    except (ImportError, ValueError, AttributeError, TypeError, OSError, KeyError):
        return None


def _links(run: Path) -> Iterator[Path]:
    """Links among what commands write: the run's own files and directories, logs, report and actors."""
    for entry in run.iterdir() if run.is_dir() else ():
        if entry.is_symlink():
            yield entry
        elif entry.name in ("logs", "report", "actors") and entry.is_dir():
            yield from (inner for inner in entry.rglob("*") if inner.is_symlink())


def _entry(name: str, places: Places) -> str:
    return json.dumps([name, *places])


def _file() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "worldloom" / "trusted.json"


def _remembered() -> list[str]:
    try:
        entries = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError, RecursionError, RuntimeError):
        return []
    return [entry for entry in entries if isinstance(entry, str)] if isinstance(entries, list) else []
