"""What torchrun tells a process in its environment: how many there are, and which one it is. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Sequence

_TOGETHER = ("train", "resume")  # the commands that several processes do together
_MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # without these they do not find each other


def processes() -> int:
    """How many processes were started to work together, 1 without torchrun.

    Raises ValueError where the environment tells of several, but not all that they need.
    """
    told = os.environ.get("WORLD_SIZE", "1")
    if not told.isdecimal() or not int(told):
        raise ValueError(f"WORLD_SIZE in the environment must be a number of processes, got {told!r}: unset it.")
    missing = [name for name in _MEETING if name not in os.environ]
    if int(told) > 1 and missing:
        raise ValueError(
            f"WORLD_SIZE in the environment tells of {told} processes, but {', '.join(missing)} is not there: start "
            "them by torchrun, or unset it."
        )
    return int(told)


def require_one(arguments: Sequence[str]) -> None:
    """Raise ValueError for a command line that only one process can follow, if there are several."""
    if arguments and arguments[0] not in (*_TOGETHER, "--help", "-h") and processes() > 1:
        raise ValueError(
            f"worldloom {arguments[0]} is work for one process, but torchrun started {processes()}: only "
            f"{' and '.join(_TOGETHER)} are shared among several. Start it without torchrun."
        )


def command() -> str:
    """What starts as many processes again, to stand before a command; empty for one."""
    count = processes()
    if count == 1:
        return ""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    machines = f"--nnodes {count // here} " if here < count else ""
    return f"torchrun {machines}--nproc-per-node {here} --no-python "
