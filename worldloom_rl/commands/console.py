"""Lines for a person: what a command says, and the next command to type."""

from __future__ import annotations

import sys

from worldloom_rl.training.next_command import typed as typed


def say(line: str) -> None:
    """A line as it is: nothing in a path is read as markup, and a terminal folds the line where it ends."""
    print(line, flush=True)


def complain(line: str) -> None:
    """The same where errors go."""
    print(line, file=sys.stderr, flush=True)
