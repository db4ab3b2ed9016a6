"""The command line of worldloom: models are trained, judged, looked into and imported."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tyro.extras import SubcommandApp

from worldloom_rl.commands.check import check
from worldloom_rl.commands.compare import compare
from worldloom_rl.commands.console import complain
from worldloom_rl.commands.evaluate import evaluate
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

_TRAIN = SubcommandApp()
_TRAIN.command(name="dreamerv3")(train_dreamerv3)
_TRAIN.command(name="jepa")(train_jepa)
_TRAIN.command(name="tdmpc2")(train_tdmpc2)
_TRAIN.command(name="tokens")(train_tokens)

_SWEEP = SubcommandApp()
_SWEEP.command(name="dreamerv3")(sweep_dreamerv3)
_SWEEP.command(name="jepa")(sweep_jepa)
_SWEEP.command(name="tdmpc2")(sweep_tdmpc2)
_SWEEP.command(name="tokens")(sweep_tokens)

_IMPORT = SubcommandApp()
_IMPORT.command(name="dreamerv3")(import_dreamerv3)
_IMPORT.command(name="lewm")(import_lewm)
_IMPORT.command(name="newt")(import_newt)
_IMPORT.command(name="tdmpc2")(import_tdmpc2)
_IMPORT.command(name="vjepa2")(import_vjepa2)

_WORLDLOOM = SubcommandApp()
_WORLDLOOM.command(name="check")(check)
_WORLDLOOM.command(_TRAIN, name="train", help="Train a world model: dreamerv3, jepa, tdmpc2 or tokens.")
_WORLDLOOM.command(name="finetune")(finetune)
_WORLDLOOM.command(_SWEEP, name="sweep", help="Train over environments, presets and seeds, by the same families.")
_WORLDLOOM.command(name="resume")(resume)
_WORLDLOOM.command(name="eval")(evaluate)
_WORLDLOOM.command(name="imagine")(imagine)
_WORLDLOOM.command(name="play")(play)
_WORLDLOOM.command(name="report")(report)
_WORLDLOOM.command(name="compare")(compare)
_WORLDLOOM.command(name="list")(list_models)
_WORLDLOOM.command(_IMPORT, name="import", help="Load an official checkpoint: dreamerv3, lewm, tdmpc2 or vjepa2.")


def _in_a_run() -> bool:
    """Whether the current directory belongs to a run, which may be somebody else's: nothing is imported from there."""
    here = Path.cwd()
    return any(
        (folder / "config.json").exists() and (folder / "checkpoints").exists() for folder in (here, *here.parents)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `worldloom`. What goes wrong ends with a sentence and exit status 2, or 1 if it is our fault."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path, or a terminal, may know fewer characters
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "" not in sys.path and not _in_a_run():
        sys.path.insert(0, "")  # as `python -m` does, so that module:Id finds a module in the current directory
    # TorchRL's notes on storages interrupt the live line; it reads the variable when it is imported.
    os.environ["RL_LOGGING_LEVEL"] = "WARNING"
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    try:
        _WORLDLOOM.cli(prog="worldloom", description=__doc__, args=given or ["--help"])
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
