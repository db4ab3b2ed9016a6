"""Numbers that a person typed, held to their ranges before anything heavy is imported, and refused by their option."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import tyro

from worldloom_rl.config import Dataclass, Limits, check_value, limits_of
from worldloom_rl.training.options import LARGEST_SEED, MOST_ENVS, MOST_STEPS, RunConfig

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
ConfigT = TypeVar("ConfigT", bound=RunConfig)
TypedT = TypeVar("TypedT")

# A configuration's fields as options of a command; what is None by default is left out, so that --episodic is a flag.
Options = tyro.conf.OmitArgPrefixes[tyro.conf.DisallowNone[TypedT]]

StepCount = Annotated[int, Limits(1, MOST_STEPS)]
EpisodeCount = Annotated[int, Limits(1, MOST_ENVS)]
Seed = Annotated[int, Limits(0, LARGEST_SEED)]


class Unchecked:
    """Goes before a configuration's class: it is then built of any numbers, and `checked` looks at them.

    tyro draws a box around what a constructor raises, under a name of its own.
    """

    def __post_init__(self) -> None:
        """Nothing is checked."""


def checked(kind: type[ConfigT], typed: ConfigT) -> ConfigT:
    """The configuration that was typed. Raises ValueError that begins with the option that was wrong."""
    values = {field.name: getattr(typed, field.name) for field in dataclasses.fields(kind)}
    try:
        return kind(**values)
    except ValueError as error:
        name, _, said = str(error).partition(" ")
        if name not in values:
            raise
        raise ValueError(f"{_option(name)} {said}") from error


def check_settings(settings: Dataclass, config: type[Dataclass]) -> None:
    """Raise ValueError by option unless the settings are of their types, and in the ranges of a configuration's fields.

    Args:
        config: that the settings become fields of, by the same names.
    """
    hints, limits = get_type_hints(type(settings)), limits_of(config)
    for field in dataclasses.fields(settings):
        check_value(_option(field.name), getattr(settings, field.name), hints[field.name], limits.get(field.name))


def in_range(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The command, which refuses numbers outside of the `Limits` in its signature, by their option."""
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    limited = {name: limits for name, hint in hints.items() if (limits := _limits(hint)) is not None}
    options = {name: _option(_renamed(hints[name]) or name) for name in limited}
    kinds = get_type_hints(command)

    @functools.wraps(command)
    def of_checked_numbers(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        given = signature.bind(*arguments, **named).arguments
        for name, limits in limited.items():
            if name in given:
                check_value(options[name], given[name], kinds[name], limits)
        return command(*arguments, **named)

    return of_checked_numbers


def _beside(hint: object) -> tuple[object, ...]:
    return hint.__metadata__ if get_origin(hint) is Annotated else ()  # type: ignore[attr-defined, no-any-return]


def _renamed(hint: object) -> str | None:
    """The name that tyro.conf.arg(name=…) gives a parameter on the command line."""
    return next((name for part in _beside(hint) if isinstance(name := getattr(part, "name", None), str)), None)


def _limits(hint: object) -> Limits | None:
    """Those that stand anywhere in a type, such as Annotated[int, Limits(1, 9)] | None."""
    beside = _beside(hint)
    inner = (_limits(part) for part in get_args(hint))
    return next((part for part in (*beside, *inner) if isinstance(part, Limits)), None)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
