"""The command line of worldloom: models are trained, judged, looked into and imported."""

from __future__ import annotations

import difflib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import tyro
from tyro.extras import SubcommandApp

from worldloom_rl.commands.check import check
from worldloom_rl.commands.compare import compare
from worldloom_rl.commands.console import complain, warnings_told_once
from worldloom_rl.commands.evaluate import evaluate
from worldloom_rl.commands.export import export
from worldloom_rl.commands.faults import explain
from worldloom_rl.commands.finetune import finetune
from worldloom_rl.commands.imagine import imagine
from worldloom_rl.commands.import_model import import_dreamerv3, import_lewm, import_newt, import_tdmpc2, import_vjepa2
from worldloom_rl.commands.list_models import list_models
from worldloom_rl.commands.play import play
from worldloom_rl.commands.report import report
from worldloom_rl.commands.resume import resume
from worldloom_rl.commands.sweep import sweep_dreamerv3, sweep_jepa, sweep_tdmpc2, sweep_tokens
from worldloom_rl.commands.train import train_dreamerv3, train_jepa, train_tdmpc2, train_tokens
from worldloom_rl.training import torchrun
from worldloom_rl.training.trust import in_a_run


@dataclass(frozen=True)
class _Group:
    """Commands under one word."""

    help: str
    commands: _Commands


_Commands: TypeAlias = Mapping[str, Callable[..., None] | _Group]

_TRAIN: _Commands = {"dreamerv3": train_dreamerv3, "jepa": train_jepa, "tdmpc2": train_tdmpc2, "tokens": train_tokens}
_SWEEP: _Commands = {"dreamerv3": sweep_dreamerv3, "jepa": sweep_jepa, "tdmpc2": sweep_tdmpc2, "tokens": sweep_tokens}
_IMPORT: _Commands = {
    "dreamerv3": import_dreamerv3,
    "lewm": import_lewm,
    "newt": import_newt,
    "tdmpc2": import_tdmpc2,
    "vjepa2": import_vjepa2,
}
_WORLDLOOM = _Group(
    __doc__,
    {
        "check": check,
        "train": _Group("Train a world model: dreamerv3, jepa, tdmpc2 or tokens.", _TRAIN),
        "finetune": finetune,
        "sweep": _Group("Train over environments, presets and seeds, by the same families.", _SWEEP),
        "resume": resume,
        "eval": evaluate,
        "imagine": imagine,
        "report": report,
        "compare": compare,
        "play": play,
        "export": export,
        "list": list_models,
        "import": _Group("Load an official checkpoint: dreamerv3, lewm, newt, tdmpc2 or vjepa2.", _IMPORT),
    },
)


def _run(group: _Group, words: Sequence[str], program: str) -> None:
    """Runs the command that the words name. tyro is shown that one only: to suggest, it reads all it is shown."""
    word = words[0] if words else ""
    command = group.commands.get(word)
    if isinstance(command, _Group):
        _run(command, words[1:], f"{program} {word}")
    elif command is not None:
        tyro.cli(command, prog=f"{program} {word}", args=words[1:])
    elif word in ("-h", "--help") or word.startswith("--tyro-"):  # tyro's own: completion for shells
        _app(group).cli(prog=program, description=group.help, args=words)
    else:
        close = difflib.get_close_matches(word, group.commands, n=1)
        meant = f" Perhaps you meant {close[0]!r}." if close else ""
        wrong = f"{word[:50]!r} is no command of {program}." if word else f"{program} needs one more word."
        raise ValueError(f"{wrong}{meant} It has {', '.join(group.commands)}; {program} --help tells of them.")


def _app(group: _Group) -> SubcommandApp:
    app = SubcommandApp()
    for name, command in group.commands.items():
        if isinstance(command, _Group):
            app.command(_app(command), name=name, help=command.help)
        else:
            app.command(name=name)(command)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `worldloom`. What goes wrong ends with a sentence and exit status 2, or 1 if it is our fault."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path, or a terminal, may know fewer characters
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "" not in sys.path and not in_a_run():
        sys.path.insert(0, "")  # as `python -m` does, so that module:Id finds a module in the current directory
    # TorchRL's notes on storages interrupt the live line; it reads the variable when it is imported.
    os.environ["RL_LOGGING_LEVEL"] = "WARNING"
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    try:
        torchrun.require_one(given)
        with warnings_told_once():
            _run(_WORLDLOOM, given or ["--help"], "worldloom")
        sys.stdout.flush()
    except KeyboardInterrupt as stopped:
        raise SystemExit(130) from stopped
    except BrokenPipeError as closed:  # whoever read it has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from closed
    except Exception as error:  # of whatever kind: `faults` knows whose it is
        if "WORLDLOOM_TRACEBACK" in os.environ:
            raise
        told, status = explain(error)
        complain(told)
        raise SystemExit(status) from error


if __name__ == "__main__":  # torchrun -m worldloom_rl.cli
    main()
