"""A JSON file that somebody recorded data with."""

from __future__ import annotations

import json
from pathlib import Path

from worldloom_rl.config import Json


def read_json(file: Path) -> Json:
    """What a file holds. Raises FileNotFoundError; ValueError naming the file if that is no JSON."""
    return parsed(file, read_text(file))


def read_text(file: Path) -> str:
    """The text of a file. Raises FileNotFoundError; ValueError naming the file if that is none."""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text: {error}. Copy it again.") from error


def parsed(file: Path, text: str) -> Json:
    """A text of that file. Raises ValueError naming the file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: a number may have too many digits
        raise ValueError(f"{file} is no JSON: {error}. Copy it again.") from error
