"""Pictures as files: one as a PNG, a session as a GIF."""

from __future__ import annotations

from collections.abc import Sequence

import imageio.v2 as imageio
import numpy as np

# Okabe and Ito's blue and vermilion, which the colour-blind tell apart too; page.css has them as well.
WORLD_COLOR, DREAM_COLOR, WAITING_COLOR = (0, 114, 178), (213, 94, 0), (128, 128, 128)
_SIDE = 320  # pixels of an animation's pictures, at most


def png(picture: np.ndarray) -> bytes:
    """A PNG of uint8 [height, width, 3]."""
    return bytes(imageio.imwrite("<bytes>", picture, format="png", compress_level=1))


def film(moments: Sequence[tuple[bytes | None, bytes, bool]], *, rate: float, scale: int) -> bytes:
    """A GIF of PNGs, world | dream; the dream's frame is vermilion where it dreams, the world's gray where it waits.

    Args:
        moments: the world's picture (None where it waits), the dream's, and whether it dreams.
        rate: pictures a second; browsers show fifty at most.
        scale: most pixels for one of a picture's.
    """
    frames: list[np.ndarray] = []
    seen: np.ndarray | None = None
    for world, dream, dreams in moments:
        dreamt = np.asarray(imageio.imread(dream, format="png"))
        seen = np.asarray(imageio.imread(world, format="png")) if world else seen
        shown = np.zeros_like(dreamt) if seen is None else seen
        color = WORLD_COLOR if world else WAITING_COLOR
        pair = [_framed(shown, color, scale), _framed(dreamt, DREAM_COLOR if dreams else WORLD_COLOR, scale)]
        tallest = max(len(part) for part in pair)
        frames.append(np.concatenate([np.pad(part, ((0, tallest - len(part)), (0, 0), (0, 0))) for part in pair], 1))
    return bytes(imageio.mimwrite("<bytes>", list(frames), format="gif", duration=1000 / min(rate, 50.0), loop=0))


def _framed(picture: np.ndarray, color: tuple[int, int, int], scale: int) -> np.ndarray:
    each = max(1, min(scale, _SIDE // max(picture.shape[:2])))
    large = picture.repeat(each, 0).repeat(each, 1)
    framed = np.empty((large.shape[0] + 8, large.shape[1] + 8, 3), np.uint8)
    framed[:] = color
    framed[4:-4, 4:-4] = large
    return framed
