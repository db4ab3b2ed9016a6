"""What a LeWM checkpoint does not tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImportSettings:
    """What a LeWM checkpoint does not hold.

    LeWM learns from actions whose columns were brought to mean 0 and standard deviation 1 over the data, and saves
    neither number. Without them the model takes actions in [-1, 1] as they are: normalised ones.
    """

    action_mean: tuple[float, ...] = ()  # of the data's columns, one a dimension of the environment's action
    action_std: tuple[float, ...] = ()
    encoder_heads: int | None = None  # by default those of the vision transformer of that width
    pixels_key: str = "pixels"
    action_key: str = "action"
