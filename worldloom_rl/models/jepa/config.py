"""Sizes and numbers of a JEPA world model; the defaults are LeWM's (stable-worldmodel, wm/lewm)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldloom_rl.config import WorldModelConfig, ranged


@dataclass(frozen=True)
class JEPAConfig(WorldModelConfig):
    """Every number of a JEPA world model and of the planner on it."""

    # Encoders; an image goes through one of two, all vectors (an extension) through a perceptron
    # of images: "vit", a vision transformer from scratch, or "cnn", a small convolutional one
    encoder: Literal["cnn", "vit"] = "vit"
    # of pixels in [0, 1], one number or one a channel
    pixel_mean: tuple[float, ...] = ranged((0.485, 0.456, 0.406), -1e3, 1e3, lengths=(1, 2**10))
    pixel_std: tuple[float, ...] = ranged((0.229, 0.224, 0.225), 1e-6, 1e3, lengths=(1, 2**10))
    patch_size: int = ranged(14, 1, 2**10)  # pixels, of the vision transformer
    encoder_dim: int = ranged(192, 1, 2**14)
    encoder_layers: int = ranged(12, 1, 256)
    encoder_heads: int = ranged(3, 1, 2**10)
    encoder_mlp: int = ranged(768, 1, 2**16)
    # of the first convolution; doubled by each halving of the image, up to four times as many
    cnn_channels: int = ranged(32, 1, 2**12)
    vector_dim: int = ranged(256, 1, 2**16)  # hidden and output width of the perceptron

    # Latent and predictor
    latent_dim: int = ranged(192, 1, 2**14)  # D
    projector_dim: int = ranged(2048, 1, 2**16)  # hidden width, where the batch norm is, of both projectors
    history: int = ranged(3, 1, 2**10)  # H, frames that a prediction sees
    action_filters: int = ranged(10, 1, 2**14)  # outputs of the action encoder's first layer; its second has 4 D
    predictor_dim: int = ranged(192, 1, 2**14)  # where it differs from D, linear maps stand between
    predictor_layers: int = ranged(6, 1, 256)
    predictor_heads: int = ranged(16, 1, 2**10)
    predictor_head_dim: int = ranged(64, 1, 2**12)
    predictor_mlp: int = ranged(2048, 1, 2**16)
    dropout: float = ranged(0.1, 0.0, 0.99)  # in the predictor, while training

    # Losses; a weight of zero leaves the term away, the prediction's is one
    # against collapse: "sigreg", "vcreg" (PLDM), or "none" for encoders that stay as they are
    regularizer: Literal["none", "sigreg", "vcreg"] = "sigreg"
    # for batches of 128: SIGReg of collapsed embeddings grows with the batch
    sigreg_coef: float = ranged(0.09, 0.0, 1e6)
    sigreg_directions: int = ranged(1024, 1, 2**20)
    sigreg_knots: int = ranged(17, 2, 2**12)
    std_coef: float = ranged(18.0, 0.0, 1e6)  # PLDM's numbers, of "vcreg"
    std_t_coef: float = ranged(0.7, 0.0, 1e6)
    cov_coef: float = ranged(12.0, 0.0, 1e6)
    cov_t_coef: float = ranged(0.0, 0.0, 1e6)
    temporal_coef: float = ranged(0.2, 0.0, 1e6)
    straightening_coef: float = ranged(0.0, 0.0, 1e6)  # beside any regularizer; 0.1 is the reference's value when on

    # Learning
    learning_rate: float = ranged(5e-5, 0.0, 1.0)  # AdamW
    weight_decay: float = ranged(1e-3, 0.0, 1e3)
    grad_clip_norm: float = ranged(1.0, 0.0, 1e12)
    # share of the updates over which the learning rate rises; a cosine to zero follows
    warmup: float = ranged(0.01, 0.0, 1.0)
    batch_size: int = ranged(128, 2, 2**20)  # windows of H + 1 frames

    # Planning
    discount: float = ranged(1.0, 0.0, 1.0)
    horizon: int = ranged(5, 1, 1000)
    # actions executed before the next plan; the whole plan, as here, makes the reward terminal
    execute: int = ranged(5, 1, 1000)
    iterations: int = ranged(30, 1, 1000)
    num_samples: int = ranged(300, 1, 2**20)
    num_elites: int = ranged(30, 1, 2**20)
    init_std: float = ranged(1.0, 0.0, 100.0)  # of flat actions, whose range is [-1, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder_dim % self.encoder_heads:
            raise ValueError(
                f"encoder_dim {self.encoder_dim} must be a multiple of encoder_heads {self.encoder_heads}."
            )
        if self.execute > self.horizon:
            raise ValueError(f"A plan of {self.horizon} actions (horizon) cannot give {self.execute} (execute).")
        if not 1 <= self.num_elites <= self.num_samples:
            raise ValueError(f"num_elites {self.num_elites} must be between 1 and num_samples {self.num_samples}.")
        if self.regularizer == "vcreg" and (self.cov_coef or self.cov_t_coef) and self.latent_dim < 2:
            raise ValueError("A covariance needs a latent_dim of at least 2.")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of every term of the model's loss, for `WorldModelLoss`; terms of weight zero are not computed."""
        weights = {"prediction": 1.0, "straightening": self.straightening_coef}
        if self.regularizer == "sigreg":
            weights["sigreg"] = self.sigreg_coef
        if self.regularizer == "vcreg":
            for name in ("std", "std_t", "cov", "cov_t", "temporal"):
                weights[name] = getattr(self, f"{name}_coef")
        return {name: weight for name, weight in weights.items() if weight > 0 or name == "prediction"}


PRESETS = {
    "tiny": JEPAConfig(
        encoder="cnn", pixel_mean=(0.5,), pixel_std=(0.5,), cnn_channels=16, vector_dim=64, latent_dim=8,
        projector_dim=64, predictor_dim=32, predictor_layers=2, predictor_heads=4, predictor_head_dim=16,
        predictor_mlp=64, dropout=0.0, sigreg_coef=0.01, sigreg_directions=64, learning_rate=2e-3,
        batch_size=64, execute=1, iterations=4, num_samples=64, num_elites=8,
    ),
    "lewm": JEPAConfig(),
}  # fmt: skip
