"""What a person moves: a choice for each one-hot group of an action space, a slider for each real number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from worldloom_rl.specs.actions import ActionSpace


class Control(NamedTuple):
    """A choice of so many actions, or a slider from `low` to `high` where they are 0."""

    choices: int
    low: float
    high: float


def controls_of(space: ActionSpace) -> list[Control]:
    """In the order of the flat action."""
    counts = {start: stop - start for start, stop in space.groups}
    found: list[Control] = []
    place = 0
    while place < space.width:
        count = counts.get(place, 0)
        found.append(Control(count, float(space.low[place]), float(space.high[place])))
        place += count or 1
    return found


def flat_action(controls: Sequence[Control], values: Sequence[float]) -> Tensor:
    """[A] flat action of a number for each control: which choice, or where the slider stands.

    Raises ValueError for another number of them, a choice that there is not, or what is no number.
    """
    if len(values) != len(controls):
        raise ValueError(
            f"An action has {len(controls)} numbers here, one for each control, got {list(values)!r:.100}."
        )
    parts = []
    for number, (control, value) in enumerate(zip(controls, values, strict=True)):
        fits = isinstance(value, int | float) and value == value
        if fits and not control.choices:
            middle, half = (control.low + control.high) / 2, (control.high - control.low) / 2
            parts.append(torch.tensor([min(max((value - middle) / half, -1.0), 1.0)]))
        elif fits and value in range(control.choices):
            parts.append(torch.eye(control.choices)[int(value)])
        else:
            wanted = f"a whole number from 0 to {control.choices - 1}" if control.choices else "a number"
            raise ValueError(f"Control {number} takes {wanted}, got {value!r:.100}.")
    return torch.cat(parts)
