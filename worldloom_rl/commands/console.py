"""Lines for a person: what a command says, and the next command to type."""

from __future__ import annotations

import shlex


def say(line: str) -> None:
    """A line of plain text as it is: no markup is read from it, and a terminal folds it where it ends."""
    from rich.console import Console

    Console(soft_wrap=True).print(line, markup=False, highlight=False)


def complain(line: str) -> None:
    """The same where errors go."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


def typed(*words: object) -> str:
    """A `worldloom` command as a shell takes it, its words quoted where they have to be."""
    return shlex.join(["worldloom", *map(str, words)])
