"""Which boxes are images, and where their channels are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

_PICTURE = 8  # rows and columns from which a model may take an array for a picture


@dataclass(frozen=True)
class ImageLayout:
    """How images of a space are brought to [C, height, width]; a stack's images stand one after the other there.

    Attributes:
        shape: C, height, width.
        bytes: whether they are levels from 0 to 255, else real numbers.
    """

    shape: tuple[int, int, int]
    bytes: bool
    _channels_last: bool

    def arrange(self, image: np.ndarray) -> np.ndarray:
        """[C, height, width] of an image, or of a stack of them, as its space has it; a view where that can be."""
        if self._channels_last:
            image = np.moveaxis(image, -1, -3)
        return image.reshape(self.shape)


def image_layout(where: str, space: spaces.Box) -> ImageLayout | None:
    """The layout of a box of three dimensions, or of four where they are bytes: a stack of images; else None.

    The channels stand on the first axis of an image or on the last: on the one that is smaller than both others. An
    array where neither is keeps its axes, if it is too small for a picture.

    Args:
        where: whose box it is, for messages.
    Raises ValueError where either axis could be the channels, and for levels from 0 to 255 as real numbers.
    """
    stack, shape = space.shape[:-3], space.shape[-3:]
    if len(shape) < 3 or len(stack) > 1 or 0 in space.shape:
        return None
    levels = _are_levels(space)
    first, second, last = shape
    channels_last = last < min(first, second)
    if stack and (not levels or not (channels_last or first < min(second, last))):
        return None
    if not channels_last and first >= min(second, last) and min(second, last) >= _PICTURE:
        raise ValueError(
            f"{where} is {space}: either its first or its last axis could be the channels of an image. Give images "
            "[C, height, width] or [height, width, C] with C below both, or flatten it "
            "(gymnasium.wrappers.TransformObservation, FlattenObservation)."
        )
    if space.dtype.kind == "f" and levels:
        raise ValueError(
            f"{where} is {space}, an image of levels from 0 to 255 as real numbers: give bytes (uint8), or real "
            "numbers from 0 to 1 (gymnasium.wrappers.TransformObservation)."
        )
    height, width, channels = shape if channels_last else (second, last, first)
    count = stack[0] if stack else 1
    return ImageLayout((count * channels, height, width), levels, channels_last)


def _are_levels(space: spaces.Box) -> bool:
    """Whether these are bytes, or numbers of another type from 0 to 255."""
    return space.dtype == np.uint8 or bool((space.low == 0).all() and (space.high == 255).all())
