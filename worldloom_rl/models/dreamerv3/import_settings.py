"""What is said of an official DreamerV3 checkpoint beside the file. Light, as the command line needs it to answer."""

from __future__ import annotations

from dataclasses import dataclass

from worldloom_rl.models.dreamerv3.config import DreamerV3Config


@dataclass(frozen=True)
class ImportSettings:
    """What an official checkpoint does not hold."""

    groups: int = DreamerV3Config.groups  # S, where there is no config.yaml; the classes K follow from it
    shapes: tuple[str, ...] = ()  # of leaves that are not plain vectors, "key=2x3"; of images "key=3x64x96", [C, H, W]
    image_key: str = "pixels"  # of an image whose shape is not given, which is square then
