"""Arguments of an environment's constructor, as a command line gives them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from worldloom_rl.config import Json

_WORDS: dict[str, Json] = {"True": True, "False": False, "None": None}


def env_arguments(given: Sequence[str]) -> dict[str, Json]:
    """The arguments by name of texts "name=value", as `make_env(env_kwargs=…)` takes them.

    A value is JSON: a number, true, false, null, "text", [1, 2] or {"a": 1}; also True, False and None. Any other word
    is itself. Raises ValueError for what is not written so, or given twice.
    """
    arguments: dict[str, Json] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"An argument of an environment is written name=value, got {text!r:.200}.")
        if name in arguments:
            raise ValueError(f"The environment's argument {name!r} is given twice.")
        arguments[name] = _value(value, text)
    return arguments


def _value(value: str, text: str) -> Json:
    if value in _WORDS:
        return _WORDS[value]
    for read in (json.loads, float):  # the second for .5 and +5
        try:
            return read(value)
        except (ValueError, RecursionError):
            continue
    if value[:1] in ("[", "{", '"', "'"):
        raise ValueError(
            f'The environment\'s argument {text!r:.200} is not JSON: write lists as [1, 2], texts in them as "text".'
        )
    return value
