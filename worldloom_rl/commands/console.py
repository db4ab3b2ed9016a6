"""Lines for a person: what a command says, and the next command to type."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from worldloom_rl.training.next_command import typed as typed


def say(line: str) -> None:
    """A line as it is: nothing in a path is read as markup, and a terminal folds the line where it ends."""
    print(line, flush=True)


def complain(line: str) -> None:
    """The same where errors go."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def warnings_told_once() -> Iterator[None]:
    """Within, a warning is a sentence that is said once, without the lines of code that it comes from."""
    tell = cache(lambda text: complain(f"worldloom: {text}"))
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(str(message))
        yield
