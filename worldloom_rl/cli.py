"""The command line: worldloom check | train | resume | eval | imagine | report | compare | list | import."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from tyro.extras import SubcommandApp

from worldloom_rl.commands.check import check
from worldloom_rl.commands.compare import compare
from worldloom_rl.commands.console import complain
from worldloom_rl.commands.evaluate import evaluate
from worldloom_rl.commands.imagine import imagine
from worldloom_rl.commands.import_model import import_dreamerv3, import_tdmpc2, import_vjepa2
from worldloom_rl.commands.list_models import list_models
from worldloom_rl.commands.report import report
from worldloom_rl.commands.resume import resume
from worldloom_rl.commands.train import train_dreamerv3, train_jepa, train_tdmpc2, train_tokens

_TRAIN = SubcommandApp()
_TRAIN.command(train_dreamerv3, name="dreamerv3")
_TRAIN.command(train_jepa, name="jepa")
_TRAIN.command(train_tdmpc2, name="tdmpc2")
_TRAIN.command(train_tokens, name="tokens")

_IMPORT = SubcommandApp()
_IMPORT.command(import_dreamerv3, name="dreamerv3")
_IMPORT.command(import_tdmpc2, name="tdmpc2")
_IMPORT.command(import_vjepa2, name="vjepa2")

_WORLDLOOM = SubcommandApp()
_WORLDLOOM.command(check, name="check")
_WORLDLOOM.command(_TRAIN, name="train", help="Train a world model: dreamerv3, jepa, tdmpc2 or tokens.")
_WORLDLOOM.command(resume, name="resume")
_WORLDLOOM.command(evaluate, name="eval")
_WORLDLOOM.command(imagine, name="imagine")
_WORLDLOOM.command(report, name="report")
_WORLDLOOM.command(compare, name="compare")
_WORLDLOOM.command(list_models, name="list")
_WORLDLOOM.command(_IMPORT, name="import", help="Load an official checkpoint: dreamerv3, tdmpc2 or vjepa2.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `worldloom`. A mistake in what was asked for ends with its message and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does, so that module:Id finds a module in the current directory
    # TorchRL's notes on storages interrupt the live line; it reads the variable when it is imported.
    os.environ["RL_LOGGING_LEVEL"] = "WARNING"
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    try:
        _WORLDLOOM.cli(prog="worldloom", description=__doc__, args=given or ["--help"])
    except KeyboardInterrupt as stopped:
        raise SystemExit(130) from stopped
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if "WORLDLOOM_TRACEBACK" in os.environ:
            raise
        complain(f"worldloom: {error}")
        raise SystemExit(2) from error
