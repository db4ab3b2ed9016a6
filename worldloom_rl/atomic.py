"""Files and directories that appear whole or not at all: written beside their place, flushed to disk, renamed."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from worldloom_rl.config import Json

_STALE = 86_400.0  # seconds; no save takes so long, also not one on another machine that shares the disk


def write_json(file: Path, data: Json) -> None:
    """Indented JSON in place of what stood there."""
    write_text(file, json.dumps(data, indent=2) + "\n")


def write_text(file: Path, text: str) -> None:
    """UTF-8 in place of what stood there."""
    write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Path, content: bytes) -> None:
    """A file with this content in place of what stood there. Nothing is left behind if it cannot be written."""
    temporary = _beside(file)
    try:
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        _rename(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_directory(target: Path, replaces: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """A temporary directory beside `target` that takes its place, by renaming, when the block ends well.

    Nothing is left behind if the block raises.

    Args:
        replaces: whether an existing directory with something in it may go, as a whole; by default none may.
    Raises FileExistsError where something stands that may not be replaced, before anything is written.
    """
    target = Path(os.path.abspath(target))
    require_replaceable(target, replaces)
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    temporary = _beside(target)
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        require_replaceable(target, replaces)  # it may have been filled meanwhile
        if target.exists():
            _exchange(temporary, target)
        else:
            _rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for folder in made:
        _flush(folder.parent)


def _exchange(new: Path, target: Path) -> None:
    """Puts `new` in the place of `target`, which is removed only after that; if it fails, it is put back."""
    old = _beside(target)
    os.replace(target, old)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(old, target)
        raise
    _flush(target.parent)  # before the old one goes
    if old.is_symlink():
        old.unlink()
    else:
        shutil.rmtree(old)


def remove_directory(folder: Path) -> None:
    """A directory goes as a whole: a half removed one has a hidden name, whatever happens."""
    dropped = folder.with_name(f".{folder.name}-dropped")
    _rename(folder, dropped)
    shutil.rmtree(dropped)


def _rename(source: Path, target: Path) -> None:
    """Renames within a directory; on the disk, too, when it returns, and so before whatever follows."""
    os.replace(source, target)
    _flush(target.parent)


def require_replaceable(target: Path, replaces: Callable[[Path], bool] = lambda folder: False) -> None:
    """Raise FileExistsError as `new_directory` does; for asking before long work."""
    if target.is_dir():
        if any(target.iterdir()) and not replaces(target):
            raise FileExistsError(
                f"{target} holds other files, which would be lost; choose a directory that is new or empty, or one "
                "that an earlier save of the same kind wrote."
            )
        if os.path.samefile(target, "."):
            raise FileExistsError(f"{target} is the current directory, which would be lost; choose a name inside it.")
    elif target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} is a file, and a directory is to be written; choose another name.")


def _beside(target: Path) -> Path:
    """A hidden name in the same directory that nothing has."""
    return target.with_name(f".{target.name[:80]}-{os.getpid()}-{secrets.token_hex(4)}")


def _remove_stale(target: Path) -> None:
    """Removes what killed processes left beside a directory that is whole."""
    scratch = re.compile(re.escape(f".{target.name[:80]}-") + r"\d+-[0-9a-f]{8}")
    for path in target.parent.iterdir() if target.exists() else ():
        if scratch.fullmatch(path.name) and path.is_dir() and time.time() - path.stat().st_mtime > _STALE:
            shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    """What was written of a file, or the names in a directory, is on the disk."""
    if not path.is_file() and not (path.is_dir() and hasattr(os, "O_DIRECTORY")):
        return  # a broken link, or a directory where the system cannot open one
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
