"""A preset with the numbers that a run replaces."""

from __future__ import annotations

import dataclasses
import json

from worldloom_rl.config import Json, WorldModelConfig, did_you_mean
from worldloom_rl.pretrained.registry import find_preset


def preset_config(family: str, preset: str, overrides: tuple[str, ...], **learned: Json) -> WorldModelConfig:
    """A preset with the numbers that a run finds out itself, and with overrides "name=value", which count most.

    A value is a number, true or false, text, or a list such as [8,8]; the configuration checks it.

    Raises ValueError for an override that names no field of the family or has no value of its type.
    """
    _, config = find_preset(f"{family}:{preset}")
    return dataclasses.replace(config, **{**learned, **overridden(config, overrides)})


def overridden(config: WorldModelConfig, overrides: tuple[str, ...]) -> dict[str, Json]:
    """The values of overrides "name=value" by name. Raises ValueError for one that names no field of that family."""
    known = {field.name for field in dataclasses.fields(config)}
    values: dict[str, Json] = {}
    for override in overrides:
        name, equals, text = (part.strip() for part in override.partition("="))
        if not equals or name not in known:
            raise ValueError(f"An override is written name=value, got {override!r}.{did_you_mean(name, known)}")
        values[name] = _parsed(text, override)
    return values


def _parsed(text: str, override: str) -> Json:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    try:
        return json.loads(text.lower())
    except (json.JSONDecodeError, RecursionError) as error:
        if text[:1].isalpha():  # a word; a field of numbers will say what it wants
            return text
        raise ValueError(
            f"The override {override!r} needs a number, true or false after '=', or a list such as [8,8]."
        ) from error
