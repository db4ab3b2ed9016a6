"""NaN and infinity are named where they come from: a simulator's observation and reward, or the action of a policy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class NotFinite(ValueError, FloatingPointError):
    """A number that models cannot learn from: a wrong value of an environment, which ends a run as a lost one does."""


def check_observed(name: str, observed: object, steps: int, key: tuple[str, ...] = ()) -> None:
    """Raise NotFinite for the first number of an observation that is NaN or +∞; −∞ stands for a missing entry.

    Args:
        observed: arrays, in dictionaries where it has parts.
        steps: simulator steps of the episode so far.
    """
    if isinstance(observed, Mapping):
        for part, below in observed.items():
            check_observed(name, below, steps, (*key, part))
        return
    array = np.asarray(observed)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    wrong = np.argwhere(np.isnan(array) | np.isposinf(array))
    if len(wrong):
        place = wrong[0].tolist()
        raise NotFinite(
            f"{name}: the observation {'.'.join(key) or 'observation'}{place} was {array[tuple(place)]} at "
            f"simulator step {steps} of its episode ({len(wrong)} of {array.size} numbers are NaN or infinite); "
            "models learn from finite ones: mend the environment."
        )


def check_reward(name: str, reward: float, total: float, steps: int, action: object) -> None:
    """Raise NotFinite for a reward, or a sum of rewards of one action, that is not finite."""
    if not np.isfinite(total):
        raise NotFinite(
            f"{name} gave the reward {reward} at simulator step {steps} of its episode (action {action}); rewards must "
            "be finite: mend the environment."
        )


def check_action(name: str, action: object) -> None:
    """Raise FloatingPointError for an action that is not finite: whoever acts went wrong, not the environment."""
    if isinstance(action, Mapping):
        for part in action.values():
            check_action(name, part)
        return
    array = np.asarray(action)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        given = " ".join(str(array).split())
        raise FloatingPointError(
            f"{name} was given the action {given:.80}: the policy's numbers went wrong, not the environment's."
        )
