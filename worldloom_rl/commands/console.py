"""Lines for a person: what a command says, and the next command to type."""

from __future__ import annotations

import shlex
import sys


def say(line: str) -> None:
    """A line as it is: nothing in a path is read as markup, and a terminal folds the line where it ends."""
    print(line, flush=True)


def complain(line: str) -> None:
    """The same where errors go."""
    print(line, file=sys.stderr, flush=True)


def typed(*words: object) -> str:
    """A `worldloom` command as a shell takes it, its words quoted where they have to be."""
    return shlex.join(["worldloom", *map(str, words)])
