"""`python tests/benchmarks --help`, from the root of the repository."""

from __future__ import annotations

import logging
import sys
import warnings

import tyro
from speed import command, queueing, scaling, trees  # python puts this folder first on its path

if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # torchrl's, of its own classes
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    if sys.argv[1:2] == ["scaling"]:
        tyro.cli(scaling.run, args=sys.argv[2:], prog="python tests/benchmarks scaling")
    elif sys.argv[1:2] == ["trees"]:
        tyro.cli(trees.run, args=sys.argv[2:], prog="python tests/benchmarks trees")
    elif sys.argv[1:] == ["queue"]:
        queueing.run()
    else:
        tyro.cli(command.run, prog="python tests/benchmarks")
