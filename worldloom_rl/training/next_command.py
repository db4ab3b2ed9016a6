"""What a person types next: a command as a shell takes it."""

from __future__ import annotations

import shlex
from pathlib import Path


def typed(*words: object) -> str:
    """A `worldloom` command, its words quoted where a shell needs it; no path of it is taken for an option."""
    return shlex.join(["worldloom", *map(_word, words)])


def _word(word: object) -> str:
    text = str(word)
    return f"./{text}" if isinstance(word, Path) and text.startswith("-") else text
