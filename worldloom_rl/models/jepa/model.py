"""JEPA's world model: embeddings predicted from embeddings and actions, learned without rewards or reconstruction.

Reference: LeWM in galilai-group/stable-worldmodel, wm/lewm; SIGReg of Balestriero & LeCun 2025 (arXiv:2511.08544).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import ranks
from worldloom_rl.functional.goal_reward import squared_distance
from worldloom_rl.functional.sigreg import sigreg
from worldloom_rl.functional.straightening import straightening
from worldloom_rl.functional.vcreg import batch_centred, covariance_penalty, temporal_distance, variance_hinge
from worldloom_rl.latents.window import sequence_windows
from worldloom_rl.models.jepa.config import JEPAConfig
from worldloom_rl.models.jepa.encoder import ActionEncoder, ObservationEncoder, Projector
from worldloom_rl.models.jepa.policy import make_policy
from worldloom_rl.models.jepa.predictor import ConditionedPredictor
from worldloom_rl.nn.transformer import dropout, keep_all
from worldloom_rl.noise import Noise
from worldloom_rl.specs.observations import is_image, sort_leaves
from worldloom_rl.world_model import Latent
from worldloom_rl.world_model.windowed import WindowedJEPA, latent_of, loss_values

Z_STD = "z_std"


class LearningTerms(NamedTuple):
    """What the loss is made of."""

    embedding: Tensor  # [B, T, D], with gradient
    predicted: Tensor  # [B, W, K, D] of W windows of K + 1 frames, predictions of frames 1 … K
    losses: dict[str, Tensor]


class JEPA(WindowedJEPA):
    """LeWM for images, vectors (an extension) or both, and any actions: plans to a goal observation, needs no rewards.

    Tokens are one embedding a frame, N = 1; see `WindowedJEPA` for the goal and the latent. The reward is minus the
    squared distance of tokens and goal.

    Args:
        config: sizes and numbers.
        observation_spec: images [C, height, width] (uint8, or real numbers in [0, 1]) and real vectors [n].
        action_spec: one or several keys, see `ActionSpace`. With a frame skip of k an action is a block [k · A].

    `compute_loss` gives "prediction" and what `config.loss_weights` names beside it.
    """

    model_type = "jepa"
    config: JEPAConfig

    def __init__(
        self,
        config: JEPAConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
    ) -> None:
        super().__init__(config, observation_spec, action_spec, key_map, history=config.history)
        self.distance = squared_distance
        vectors, images = sort_leaves(
            {key: observation_spec[key] for key in self.frame_keys},
            reader="A JEPA",
            takes="real vectors [n] and images [C, height, width] of uint8 or of real numbers in [0, 1]",
            image=is_image,
        )
        if not vectors and not images:
            raise ValueError("The observation spec has neither a vector nor an image; a JEPA needs at least one.")
        size, width, action = config.history, config.latent_dim, self.action_space.width
        self.describe_latent(1, width)
        self.encoder = ObservationEncoder(config, vectors, images)
        self.projector = Projector(self.encoder.features, config.projector_dim, width)
        self.action_encoder = ActionEncoder(action, config.action_filters, width)
        self.predictor = ConditionedPredictor(
            size, width, config.predictor_dim, config.predictor_layers, config.predictor_heads,
            config.predictor_head_dim, config.predictor_mlp,
        )  # fmt: skip
        self.prediction_projector = Projector(width, config.projector_dim, width)

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        """RGB images of 56 x 56 pixels (four patches of LeWM's a side) and 2 actions in [-1, 1]."""
        return (
            Composite(pixels=Unbounded((3, 56, 56), dtype=torch.uint8, device="cpu")),
            Composite(action=Bounded(-1.0, 1.0, shape=(2,), dtype=torch.float32, device="cpu")),
        )

    # ------------------------------------------------------------------ the tensor core

    def embed(self, observation: Mapping[NestedKey, Tensor], *, batch_statistics: bool = False) -> Tensor:
        """[..., 1, D] tokens of the frame keys' observations."""
        embedding: Tensor = self.projector(self.encoder(observation), batch_statistics=batch_statistics)
        return embedding.unsqueeze(-2)

    def predict_tokens(self, frames: Tensor, actions: Tensor, noise: Noise | None = None) -> Tensor:
        """[..., L, 1, D] at each place the prediction of the next frame, from that place and those before it.

        Args:
            frames: [..., L, 1, D], L ≤ H; actions: [..., L, A], leaving each frame.
            noise: of dropout; with it, batch norms use the batch's statistics, as in learning.
        """
        lead, steps = frames.shape[:-3], frames.shape[-3]
        drop = keep_all if noise is None else dropout(noise, self.config.dropout)
        flat = frames.reshape(-1, steps, frames.shape[-1])
        condition = self.action_encoder(actions.reshape(-1, steps, actions.shape[-1]))
        predicted: Tensor = self.prediction_projector(
            self.predictor(flat, condition, drop), batch_statistics=noise is not None
        )
        return predicted.reshape(*lead, steps, 1, -1)

    def latent_features(self, latent: Latent) -> Tensor:
        return torch.cat([latent["tokens"].flatten(-2), latent["goal"].flatten(-2)], -1)

    # ------------------------------------------------------------------ acting and learning

    def make_policy(self, **options: Any) -> TensorDictSequential:
        """Observes, plans to the goal and acts, for any collector; the options are those of `jepa.make_policy`."""
        return make_policy(self, **options)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The configuration's, of the terms that it names."""
        weights: dict[str, float] = self.config.loss_weights
        return weights

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """Terms from [B, T] rows, T ≥ 2, of which every H + 1 in a row (all T if fewer) are a window.

        "prediction" is [B, windows, predictions], scaled so that its mean is that over windows within one episode;
        others count zero. "sigreg" is [T], "std" and "std_t" [T, D] and [B, D], "cov" and "cov_t" [T] and [B],
        "temporal" [B, T − 1], "straightening" [B, T − 2]; they do not mind where episodes end. NaN in an action is 0.

        The posterior holds the latents [B, T, …], each goal being the last row's tokens, and "z_std" [B, T], without
        gradient: the embeddings' standard deviation, a mean over dimensions. It falls to zero in a collapse, which the
        prediction error hides. In training mode batch norms and dropout are active here, and nowhere else.
        """
        values = loss_values(self, batch)
        observation = {key: values[key] for key in self.frame_keys}
        action = self.read_previous_action(batch)[:, 1:].nan_to_num(0.0)
        starts = values[self.key_map.is_init].squeeze(-1)
        terms = self.learning_terms(observation, action, starts, noise or self.noise)
        z = terms.embedding
        # The action that leaves a row is the next row's previous one; the last row's is not known yet.
        leaving = torch.cat([action, torch.zeros_like(action[:, :1])], 1)
        tokens = z.unsqueeze(-2)
        window = sequence_windows(tokens, leaving, starts, self.config.history)
        latent = latent_of(window, tokens, tokens[:, -1:].expand_as(tokens))
        posterior = self.write_latent(TensorDict({}, batch_size=batch.batch_size, device=batch.device), latent)
        spread = z.detach().flatten(0, 1).std(0).mean()
        return terms.losses, posterior.set(Z_STD, spread.expand(batch.batch_size))

    def learning_terms(
        self, observation: Mapping[NestedKey, Tensor], action: Tensor, starts: Tensor, noise: Noise
    ) -> LearningTerms:
        """Embeddings, predictions and losses, in the order of the reference: encode, predict, regularize.

        Args:
            observation: leaves [B, T, …]; action: [B, T − 1, A] from row to row; starts: bool [B, T].
        """
        config = self.config
        tokens = self.embed(observation, batch_statistics=self.training)
        frames = min(config.history + 1, tokens.shape[1])
        if frames < 2:
            raise ValueError(f"Learning needs sequences of at least 2 rows, got {tokens.shape[1]}.")
        windows = tokens.unfold(1, frames, 1).movedim(-1, 2)  # [B, W, frames, 1, D]
        actions = action.unfold(1, frames - 1, 1).movedim(-1, 2)
        predicted = self.predict_tokens(windows[:, :, :-1], actions, noise if self.training else None)
        # The target keeps its gradient: it is the regularizer, not a stopped gradient, that prevents collapse.
        error = (predicted - windows[:, :, 1:]).square().mean((-2, -1))
        whole = ~starts.unfold(1, frames, 1)[..., 1:].any(-1, keepdim=True).expand_as(error)
        share = ranks.mean(whole.to(error.dtype).mean())
        losses = {"prediction": torch.where(whole, error, torch.zeros_like(error)) / share.clamp(min=1e-6)}
        z = tokens.squeeze(-2)
        losses |= self._regularization(z, noise)
        if config.straightening_coef > 0:
            losses["straightening"] = straightening(z)
        return LearningTerms(z, predicted.squeeze(-2), losses)

    def _regularization(self, z: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The terms against collapse, of embeddings [B, T, D]."""
        config, losses = self.config, {}
        if "sigreg" in config.loss_weights:
            directions = noise.normal("directions", (z.shape[-1], config.sigreg_directions), z)
            losses["sigreg"] = sigreg(z.transpose(0, 1), ranks.first(directions), config.sigreg_knots)
        if config.regularizer == "vcreg":
            centred = batch_centred(z)
            over_time = centred.transpose(0, 1)
            losses["std"], losses["std_t"] = variance_hinge(centred, shared=True), variance_hinge(over_time)
            losses["cov"], losses["cov_t"] = covariance_penalty(centred, shared=True), covariance_penalty(over_time)
            losses["temporal"] = temporal_distance(z)
        return {name: term for name, term in losses.items() if name in config.loss_weights}
