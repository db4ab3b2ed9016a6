"""Recorded data by name: Minari datasets and HDF5 files of videos with actions."""

from __future__ import annotations

from pathlib import Path

from worldloom_rl.data.hdf5_recording import HDF5Recording
from worldloom_rl.data.minari_recording import MinariRecording
from worldloom_rl.data.recording import Recording

MINARI = "minari:"


def open_recording(source: str, image_size: int | None = None) -> Recording:
    """The recording that a name or a path stands for.

    Args:
        source: "minari:NAME" (see `MinariRecording`), else an HDF5 file or a directory of them (see `HDF5Recording`).
        image_size: rows and columns that images are brought to by averaging areas; by default they stay as they are.
    Raises ImportError without the extra "offline", FileNotFoundError if there is no such data, ValueError for what it
    holds.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}.")
    if source.startswith(MINARI):
        return MinariRecording(source.removeprefix(MINARI), image_size=image_size)
    return HDF5Recording(Path(source), image_size=image_size)
