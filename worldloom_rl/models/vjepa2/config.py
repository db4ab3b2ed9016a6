"""Sizes of V-JEPA 2-AC; the defaults are the released model's (vjepa2-ac-vitg)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldloom_rl.config import WorldModelConfig, check_range, ranged

if TYPE_CHECKING:
    from transformers import VJEPA2Config


@dataclass(frozen=True)
class VJEPA2ACConfig(WorldModelConfig):
    """Every number of a V-JEPA 2-AC world model and of the planner on it."""

    # Encoder, frozen
    image_size: int = ranged(256, 1, 2**12)  # pixels, height and width
    patch_size: int = ranged(16, 1, 512)  # pixels; the image size is a multiple
    tubelet_size: int = ranged(2, 1, 512)  # frames of a tubelet, which one frame fills
    encoder_dim: int = ranged(1408, 1, 2**16)  # E
    encoder_depth: int = ranged(40, 1, 512)
    encoder_heads: int = ranged(22, 1, 512)
    encoder_mlp_dim: int = ranged(6144, 1, 2**16)

    # Predictor
    predictor_dim: int = ranged(1024, 1, 2**16)  # P
    predictor_depth: int = ranged(24, 1, 512)
    predictor_heads: int = ranged(16, 1, 512)
    predictor_mlp_dim: int = ranged(4096, 1, 2**16)
    use_extrinsics: bool = False  # condition on the camera's pose, an observation "extrinsics" of 6 numbers

    # Imagination
    # H, frames that a prediction sees; a plan of H steps from one frame needs no more
    history: int = ranged(2, 1, 2**10)
    # of them, observed frames that acting keeps; the released planner starts from one
    context: int = ranged(1, 1, 2**10)
    discount: float = ranged(1.0, 0.0, 1.0)  # γ

    # Learning
    rollout_steps: int = ranged(2, 1, 2**10)  # auto_steps, predictions in a row of the rollout loss
    loss_exponent: float = ranged(1.0, 1.0, 8.0)  # p of |error|^p / p

    # Planning
    horizon: int = ranged(2, 1, 2**10)  # steps of a plan, "rollout"
    iterations: int = ranged(10, 1, 2**16)  # cem_steps
    num_samples: int = ranged(400, 1, 2**20)
    num_elites: int = ranged(10, 2, 2**20)  # topk
    momentum_mean: float = ranged(0.15, 0.0, 0.999)  # share of the previous mean kept
    momentum_std: float = ranged(0.15, 0.0, 0.999)
    momentum_mean_gripper: float = ranged(0.15, 0.0, 0.999)
    momentum_std_gripper: float = ranged(0.15, 0.0, 0.999)
    # metres an axis and step, maxnorm: the first deviation, and where samples are cut
    max_translation: float = ranged(0.05, 0.0, 1e3)
    max_gripper: float = ranged(0.75, 0.0, 1e3)  # where samples of the gripper are cut; its first deviation is 1
    min_gripper: float = ranged(0.25, 0.0, 1e3)  # planned gripper motions that are smaller become 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}.")
        for width, heads in (("encoder_dim", "encoder_heads"), ("predictor_dim", "predictor_heads")):
            each, rest = divmod(getattr(self, width), getattr(self, heads))
            if rest or each < 6:
                raise ValueError(
                    f"{width} {getattr(self, width)} must be a multiple of {heads} {getattr(self, heads)} and give "
                    "each head at least 6 channels, which its rotation along three axes needs."
                )
        check_range("context", self.context, 1, self.history)
        check_range("num_elites", self.num_elites, 2, self.num_samples)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        side = self.image_size // self.patch_size
        return side, side

    def transformers_config(self) -> VJEPA2Config:
        """The encoder's sizes as transformers takes them, without a masked predictor.

        Raises ImportError where transformers is missing.
        """
        from worldloom_rl.models.vjepa2.encoder import require_transformers  # here: a configuration needs no torch

        return require_transformers().VJEPA2Config(
            crop_size=self.image_size,
            patch_size=self.patch_size,
            tubelet_size=self.tubelet_size,
            hidden_size=self.encoder_dim,
            num_hidden_layers=self.encoder_depth,
            num_attention_heads=self.encoder_heads,
            mlp_ratio=mlp_ratio(self.encoder_dim, self.encoder_mlp_dim),
            pred_hidden_size=1,  # transformers builds a masked predictor too, which is thrown away
            pred_num_hidden_layers=0,
        )


def mlp_ratio(width: int, hidden: int) -> float:
    """The ratio from which transformers computes int(width · ratio) = hidden."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


PRESETS = {
    "tiny": VJEPA2ACConfig(
        image_size=32, patch_size=8, encoder_dim=32, encoder_depth=1, encoder_heads=2, encoder_mlp_dim=64,
        predictor_dim=32, predictor_depth=2, predictor_heads=2, predictor_mlp_dim=64, history=3, context=2,
        iterations=4, num_samples=64,
    ),
    "ac-vitg": VJEPA2ACConfig(),
}  # fmt: skip
