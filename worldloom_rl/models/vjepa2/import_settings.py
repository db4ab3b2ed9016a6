"""What is said of an official V-JEPA 2 checkpoint beside the file. Light, as the command line needs it to answer."""

from __future__ import annotations

from dataclasses import dataclass

from worldloom_rl.models.vjepa2.config import VJEPA2ACConfig


@dataclass(frozen=True)
class ImportSettings:
    """What an official checkpoint does not hold; the defaults are those of the released files."""

    image_size: int = 256  # pixels, height and width; 384 for vitg-384.pt
    encoder_heads: int | None = None  # by default the released encoder's of that width
    predictor_heads: int | None = None  # by default the released predictor's of that width
    use_extrinsics: bool = False  # whether the action-conditioned predictor was trained with the camera's pose
    history: int = VJEPA2ACConfig.history  # frames that a prediction sees
    context: int = VJEPA2ACConfig.context  # of them, observed frames that acting keeps
    pixels_key: str = "pixels"
    pose_key: str = "proprio"
    action_key: str = "action"
