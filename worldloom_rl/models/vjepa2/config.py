"""Sizes of V-JEPA 2-AC; the defaults are the released model's (vjepa2-ac-vitg)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldloom_rl.config import WorldModelConfig, check_range
from worldloom_rl.models.vjepa2.encoder import require_transformers

if TYPE_CHECKING:
    from transformers import VJEPA2Config


@dataclass(frozen=True)
class VJEPA2ACConfig(WorldModelConfig):
    """Every number of a V-JEPA 2-AC world model and of the planner on it."""

    # Encoder, frozen
    image_size: int = 256  # pixels, height and width
    patch_size: int = 16  # pixels; the image size is a multiple
    tubelet_size: int = 2  # frames of a tubelet, which one frame fills
    encoder_dim: int = 1408  # E
    encoder_depth: int = 40
    encoder_heads: int = 22
    encoder_mlp_dim: int = 6144

    # Predictor
    predictor_dim: int = 1024  # P
    predictor_depth: int = 24
    predictor_heads: int = 16
    predictor_mlp_dim: int = 4096
    use_extrinsics: bool = False  # condition on the camera's pose, an observation "extrinsics" of 6 numbers

    # Imagination
    history: int = 2  # H, frames that a prediction sees; a plan of H steps from one frame needs no more
    context: int = 1  # of them, observed frames that acting keeps; the released planner starts from one
    discount: float = 1.0  # γ

    # Learning
    rollout_steps: int = 2  # auto_steps, predictions in a row of the rollout loss
    loss_exponent: float = 1.0  # p of |error|^p / p

    # Planning
    horizon: int = 2  # steps of a plan, "rollout"
    iterations: int = 10  # cem_steps
    num_samples: int = 400
    num_elites: int = 10  # topk
    momentum_mean: float = 0.15  # share of the previous mean kept
    momentum_std: float = 0.15
    momentum_mean_gripper: float = 0.15
    momentum_std_gripper: float = 0.15
    max_translation: float = 0.05  # metres an axis and step, maxnorm: the first deviation, and where samples are cut
    max_gripper: float = 0.75  # where samples of the gripper are cut; its first deviation is 1
    min_gripper: float = 0.25  # planned gripper motions that are smaller become 0

    def __post_init__(self) -> None:
        for name in ("patch_size", "tubelet_size", "encoder_depth", "encoder_heads", "predictor_depth"):
            check_range(name, getattr(self, name), 1, 512)
        check_range("predictor_heads", self.predictor_heads, 1, 512)
        for name in ("encoder_dim", "encoder_mlp_dim", "predictor_dim", "predictor_mlp_dim"):
            check_range(name, getattr(self, name), 1, 2**16)
        check_range("image_size", self.image_size, 1, 2**12)
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}.")
        for width, heads in (("encoder_dim", "encoder_heads"), ("predictor_dim", "predictor_heads")):
            each, rest = divmod(getattr(self, width), getattr(self, heads))
            if rest or each < 6:
                raise ValueError(
                    f"{width} {getattr(self, width)} must be a multiple of {heads} {getattr(self, heads)} and give "
                    "each head at least 6 channels, which its rotation along three axes needs."
                )
        check_range("history", self.history, 1, 2**10)
        check_range("context", self.context, 1, self.history)
        check_range("discount", self.discount, 0.0, 1.0)
        check_range("rollout_steps", self.rollout_steps, 1, 2**10)
        check_range("loss_exponent", self.loss_exponent, 1.0, 8.0)
        check_range("horizon", self.horizon, 1, 2**10)
        check_range("iterations", self.iterations, 1, 2**16)
        check_range("num_samples", self.num_samples, 1, 2**20)
        check_range("num_elites", self.num_elites, 2, self.num_samples)
        for name in ("momentum_mean", "momentum_std", "momentum_mean_gripper", "momentum_std_gripper"):
            check_range(name, getattr(self, name), 0.0, 0.999)
        for name in ("max_translation", "max_gripper", "min_gripper"):
            check_range(name, getattr(self, name), 0.0, 1e3)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        side = self.image_size // self.patch_size
        return side, side

    def transformers_config(self) -> VJEPA2Config:
        """The encoder's sizes as transformers takes them, without a masked predictor.

        Raises ImportError where transformers is missing.
        """
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
