"""Sizes and numbers of a JEPA world model; the defaults are LeWM's (stable-worldmodel, wm/lewm)."""

from __future__ import annotations

from dataclasses import dataclass

from worldloom_rl.config import WorldModelConfig, check_range

ENCODERS = ("cnn", "vit")
REGULARIZERS = ("none", "sigreg", "vcreg")


@dataclass(frozen=True)
class JEPAConfig(WorldModelConfig):
    """Every number of a JEPA world model and of the planner on it."""

    # Encoders; an image goes through one of two, all vectors (an extension) through a perceptron
    encoder: str = "vit"  # of images: "vit", a vision transformer from scratch, or "cnn", a small convolutional one
    pixel_mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of pixels in [0, 1], one number or one a channel
    pixel_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    patch_size: int = 14  # pixels, of the vision transformer
    encoder_dim: int = 192
    encoder_layers: int = 12
    encoder_heads: int = 3
    encoder_mlp: int = 768
    cnn_channels: int = 32  # of the first convolution; doubled by each halving of the image, up to four times as many
    vector_dim: int = 256  # hidden and output width of the perceptron

    # Latent and predictor
    latent_dim: int = 192  # D
    projector_dim: int = 2048  # hidden width, where the batch norm is, of both projectors
    history: int = 3  # H, frames that a prediction sees
    action_filters: int = 10  # outputs of the action encoder's first layer; its second has 4 D
    predictor_dim: int = 192  # where it differs from D, linear maps stand between
    predictor_layers: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp: int = 2048
    dropout: float = 0.1  # in the predictor, while training

    # Losses; a weight of zero leaves the term away, the prediction's is one
    regularizer: str = (
        "sigreg"  # against collapse: "sigreg", "vcreg" (PLDM), or "none" for encoders that stay as they are
    )
    sigreg_coef: float = 0.09  # for batches of 128: SIGReg of collapsed embeddings grows with the batch
    sigreg_directions: int = 1024
    sigreg_knots: int = 17
    std_coef: float = 18.0  # PLDM's numbers, of "vcreg"
    std_t_coef: float = 0.7
    cov_coef: float = 12.0
    cov_t_coef: float = 0.0
    temporal_coef: float = 0.2
    straightening_coef: float = 0.0  # beside any regularizer; 0.1 is the reference's value when on

    # Learning
    learning_rate: float = 5e-5  # AdamW
    weight_decay: float = 1e-3
    grad_clip_norm: float = 1.0
    warmup: float = 0.01  # share of the updates over which the learning rate rises; a cosine to zero follows
    batch_size: int = 128  # windows of H + 1 frames

    # Planning
    discount: float = 1.0
    horizon: int = 5
    execute: int = 5  # actions executed before the next plan; the whole plan, as here, makes the reward terminal
    iterations: int = 30
    num_samples: int = 300
    num_elites: int = 30
    init_std: float = 1.0  # of flat actions, whose range is [-1, 1]

    def __post_init__(self) -> None:
        for name, low, high in (
            ("patch_size", 1, 2**10), ("encoder_dim", 1, 2**14), ("encoder_layers", 1, 256),
            ("encoder_heads", 1, 2**10), ("encoder_mlp", 1, 2**16), ("cnn_channels", 1, 2**12),
            ("vector_dim", 1, 2**16), ("latent_dim", 1, 2**14), ("projector_dim", 1, 2**16), ("history", 1, 2**10),
            ("action_filters", 1, 2**14), ("predictor_dim", 1, 2**14), ("predictor_layers", 1, 256),
            ("predictor_heads", 1, 2**10), ("predictor_head_dim", 1, 2**12), ("predictor_mlp", 1, 2**16),
            ("dropout", 0.0, 0.99), ("sigreg_coef", 0.0, 1e6), ("sigreg_directions", 1, 2**20),
            ("sigreg_knots", 2, 2**12), ("std_coef", 0.0, 1e6), ("std_t_coef", 0.0, 1e6), ("cov_coef", 0.0, 1e6),
            ("cov_t_coef", 0.0, 1e6), ("temporal_coef", 0.0, 1e6), ("straightening_coef", 0.0, 1e6),
            ("learning_rate", 0.0, 1.0), ("weight_decay", 0.0, 1e3), ("grad_clip_norm", 0.0, 1e12),
            ("warmup", 0.0, 1.0), ("batch_size", 2, 2**20), ("discount", 0.0, 1.0), ("horizon", 1, 1000),
            ("execute", 1, 1000), ("iterations", 1, 1000), ("num_samples", 1, 2**20), ("num_elites", 1, 2**20),
            ("init_std", 0.0, 100.0),
        ):  # fmt: skip
            check_range(name, getattr(self, name), low, high)
        for name, known in (("encoder", ENCODERS), ("regularizer", REGULARIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {list(known)}, got {getattr(self, name)!r}.")
        for name, low, high in (("pixel_mean", -1e3, 1e3), ("pixel_std", 1e-6, 1e3)):
            numbers = getattr(self, name)
            if not isinstance(numbers, tuple) or not 1 <= len(numbers) <= 2**10:
                raise ValueError(f"{name} must be a tuple of one number or one a channel, got {numbers!r:.200}.")
            for number in numbers:
                check_range(name, number, low, high)
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
