"""A preset with the numbers that a run replaces."""

from __future__ import annotations

import dataclasses
import json
from typing import get_type_hints

from worldloom_rl.config import Json, WorldModelConfig, did_you_mean
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.training.fields import fits, typed


def preset_config(family: str, preset: str, overrides: tuple[str, ...], **learned: Json) -> WorldModelConfig:
    """A preset with the numbers that a run finds out itself, and with overrides "name=value", which count most.

    A value is a number, true or false, text, or a list such as [8,8].

    Raises ValueError for an override that names no field of the family or has no value of its type.
    """
    _, config = find_preset(f"{family}:{preset}")
    hints = get_type_hints(type(config))
    values: dict[str, Json] = {}
    for override in overrides:
        name, equals, text = (part.strip() for part in override.partition("="))
        if not equals or name not in hints:
            raise ValueError(f"An override is written name=value, got {override!r}.{did_you_mean(name, hints)}")
        values[name] = _parsed(text, hints[name], override)
    return dataclasses.replace(config, **{**learned, **typed(type(config), values, "overrides")})


def _parsed(text: str, hint: object, override: str) -> Json:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    try:
        return json.loads(text.lower())
    except json.JSONDecodeError as error:
        if text and fits(text, hint):
            return text
        raise ValueError(
            f"The override {override!r} needs a number, true or false after '=', or a list such as [8,8]."
        ) from error
