"""A token world model: a frame is a grid of discrete tokens, and a causal transformer predicts the next frame's.

All tokens of the next frame, the reward and the probability of going on come from one pass: the next frame's token i
from the present frame's token i, reward and continuation from the action. IRIS (Micheli et al. 2023, arXiv:2209.00588)
draws the tokens one after the other instead, in as many passes as there are tokens. One pass costs that much less, and
the price is that tokens of one frame are drawn independently of each other given the past: where the next frame is
uncertain, a drawn frame can be a mixture of several. No code or weights of IRIS are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl.functional.precision import precise
from worldloom_rl.latents import CodebookLatent
from worldloom_rl.latents.quantizers import AveragedCodes, FixedGrid, LearnedCodes, Quantizer
from worldloom_rl.models.tokens.causal_transformer import stretch_causal_mask
from worldloom_rl.models.tokens.config import TokensConfig
from worldloom_rl.models.tokens.dynamics import Dynamics, Outlook
from worldloom_rl.models.tokens.policy import make_policy
from worldloom_rl.models.tokens.tokenizer import Tokenizer
from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import ActorPolicy
from worldloom_rl.specs.observations import is_byte_image, leaves_of
from worldloom_rl.world_model import Latent, LatentPolicy, Observation, Prediction, WorldModel


class TokenWorldModel(WorldModel):
    """A token world model for one image and any action space.

    Args:
        config: sizes and numbers.
        observation_spec: one uint8 image [C, height, width].
        action_spec: one or several keys, see `ActionSpace`.

    The latent has the leaves "codebook_indices" [N] and "tokens" [N, D] of the present frame, and the context of the H
    latest frames, oldest first: "window" [H, N, D], "action_window" [H, A] (the flat action taken from each frame, the
    present one's still open) and "length" [] of valid frames; what stands behind them has no effect. Rewards and
    continuations belong to a step, not to a latent: `decode` gives the image only. `compute_loss` gives
    "dynamics", "reward" and "continue" [B, T−1]; "reconstruction" and, as the quantiser has them, "codebook" and
    "commitment" [B, R] of the last R rows, `tokenizer_rows`. The behaviour learns by `ImaginedActorCriticLoss`.
    """

    model_type = "tokens"
    config: TokensConfig
    discounts: Tensor

    def __init__(
        self,
        config: TokensConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
    ) -> None:
        super().__init__(config, observation_spec, action_spec, key_map)
        self.image_key, (channels, height, width) = _only_image(observation_spec)
        rows, columns = Tokenizer.grid(height, width, config.halvings)
        space = CodebookLatent(rows * columns, config.token_width, _quantizer(config))
        self.tokenizer = Tokenizer(
            channels,
            height,
            width,
            depth=config.depth,
            halvings=config.halvings,
            space=space,
        )
        frames, actions = config.context, self.action_space.width
        self.latent_spec = space.spec()
        self.latent_spec["window"] = Unbounded((frames, space.count, space.width))
        self.latent_spec["action_window"] = Unbounded((frames, actions))
        self.latent_spec["length"] = Bounded(0, frames, shape=(), dtype=torch.int64)
        self.dynamics = Dynamics(space, actions, config)
        self.behavior = ActorCritic(
            config.feature_frames * space.features_width,
            self.action_space,
            units=config.units,
            actor_layers=config.actor_layers,
            critic_layers=config.critic_layers,
            bins=config.num_bins,
            min_std=config.min_std,
            max_std=config.max_std,
            slow_rate=config.slow_rate,
            return_rate=config.return_rate,
            return_limit=config.return_limit,
        )
        self.register_buffer("discounts", torch.tensor([config.discount]), persistent=False)

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        """Images of 64 x 64 with three channels and one of 18 actions, as in Atari."""
        return (
            Composite(pixels=Bounded(0, 255, shape=(3, 64, 64), dtype=torch.uint8, device="cpu")),
            Composite(action=Categorical(18, shape=(), dtype=torch.int64, device="cpu")),
        )

    @property
    def space(self) -> CodebookLatent:
        """The codebook."""
        return self.tokenizer.space

    # ------------------------------------------------------------------ the tensor core

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        indices, tokens = self._tokenize(observation)
        return self._append(self.initial_latent(indices.shape[:-1]), indices, tokens)

    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        indices, tokens = self._tokenize(observation)
        return self._follow(previous, previous_action, indices, tokens, is_init)

    def observe_sequence(
        self, carry: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        return self._follow_sequence(carry, previous_action, *self._tokenize(observation), is_init)

    def _tokenize(self, observation: Observation) -> tuple[Tensor, Tensor]:
        quantized = self.space.quantize(self.tokenizer.encode(observation[self.image_key]))
        return quantized.indices, quantized.tokens

    def _follow_sequence(
        self, carry: Latent, action: Tensor, indices: Tensor, tokens: Tensor, is_init: Tensor
    ) -> Latent:
        time, latents = is_init.dim() - 2, []
        rows = (value.unbind(time) for value in (action, indices, tokens, is_init))
        for row in zip(*rows, strict=True):
            carry = self._follow(carry, *row)
            latents.append(carry)
        return {name: torch.stack([latent[name] for latent in latents], time) for name in carry}

    def _follow(self, previous: Latent, action: Tensor, indices: Tensor, tokens: Tensor, is_init: Tensor) -> Latent:
        """The latent of a frame after another one, or of the first of an episode where `is_init`."""
        taken = self._take(previous, action)
        start = {name: value.new_zeros(()) for name, value in taken.items()}
        kept = {name: torch.where(_beside(is_init, value), start[name], value) for name, value in taken.items()}
        return self._append(kept, indices, tokens)

    def _take(self, latent: Latent, action: Tensor) -> Latent:
        """The latent with its present frame and the action taken from there in the windows."""
        present = self._present(latent)
        window = torch.where(_beside(present, latent["window"]), latent["tokens"].unsqueeze(-3), latent["window"])
        action_window = torch.where(
            present.unsqueeze(-1), action.unsqueeze(-2).to(latent["action_window"].dtype), latent["action_window"]
        )
        return {**latent, "window": window, "action_window": action_window}

    def _present(self, latent: Latent) -> Tensor:
        """[..., H] True at the present frame's place."""
        slots = torch.arange(self.config.context, device=latent["length"].device)
        return slots == (latent["length"] - 1).clamp(min=0).unsqueeze(-1)

    def _append(self, latent: Latent, indices: Tensor, tokens: Tensor) -> Latent:
        """The latent with one more frame; the oldest leaves a full window."""
        context = self.config.context
        full = (latent["length"] == context).unsqueeze(-1)
        place = latent["length"].clamp(max=context - 1).unsqueeze(-1)
        here = torch.arange(context, device=place.device) == place
        window, action_window = latent["window"], latent["action_window"]
        shifted = torch.cat([window[..., 1:, :, :], window[..., -1:, :, :]], -3)
        window = torch.where(full.unsqueeze(-1).unsqueeze(-1), shifted, window)
        action_shifted = torch.cat([action_window[..., 1:, :], torch.zeros_like(action_window[..., -1:, :])], -2)
        return {
            "codebook_indices": indices,
            "tokens": tokens,
            "window": torch.where(_beside(here, window), tokens.unsqueeze(-3), window),
            "action_window": torch.where(full.unsqueeze(-1), action_shifted, action_window),
            "length": (latent["length"] + 1).clamp(max=context),
        }

    def outlook(self, latent: Latent, action: Tensor) -> tuple[Latent, Outlook]:
        """The latent with the action [..., A] taken, and what follows: logits [..., N, K], [..., bins], [..., 1]."""
        taken = self._take(latent, action)
        lead = action.shape[:-1]
        window = taken["window"].reshape(-1, *taken["window"].shape[-3:])
        slots = torch.arange(self.config.context, device=window.device)
        mask = stretch_causal_mask(torch.zeros_like(slots), self.space.count + 1)
        outlooks = self.dynamics(window, taken["action_window"].reshape(len(window), len(slots), -1), slots, mask)
        place = (latent["length"].reshape(-1) - 1).clamp(min=0)
        rows = torch.arange(len(window), device=window.device)
        return taken, Outlook(*(logits[rows, place].reshape(*lead, *logits.shape[2:]) for logits in outlooks))

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        taken, outlook = self.outlook(latent, action)
        indices, tokens = self.space.sample(outlook.token_logits, noise)
        reward = self.dynamics.reward_head.mean(outlook.reward_logits)
        return Prediction(self._append(taken, indices, tokens), reward, torch.sigmoid(outlook.continue_logits))

    @property
    def decoded_keys(self) -> tuple[NestedKey, ...]:
        return (self.image_key,)

    def decode_latent(self, latent: Latent) -> dict[NestedKey, Tensor]:
        return {self.image_key: 255 * self.tokenizer.decode(latent["tokens"])}

    def continuation(self, latent: Latent) -> Tensor:
        tokens = latent["tokens"]
        return torch.ones_like(tokens[..., 0, :1], dtype=precise(tokens.dtype))

    def latent_features(self, latent: Latent) -> Tensor:
        """[..., F] the tokens of the latest frames, the present one first; zeros for frames before the episode."""
        frames = [latent["tokens"]]
        slots = torch.arange(self.config.context, device=latent["length"].device)
        for back in range(1, self.config.feature_frames):
            here = slots == (latent["length"] - 1 - back).unsqueeze(-1)
            frames.append(torch.where(_beside(here, latent["window"]), latent["window"], 0.0).sum(-3))
        return torch.cat([self.space.features(frame) for frame in frames], -1)

    def discount(self, latent: Latent) -> Tensor:
        return self.discounts

    def terminal_value(self, latent: Latent, noise: Noise) -> Tensor:
        """[..., 1] the critic's value."""
        return self.behavior.critic.mean(self.behavior.critic(self.latent_features(latent)))

    # ------------------------------------------------------------------ acting and learning

    def make_actor(self) -> LatentPolicy:
        """The model's actor as a policy over latents; see `ActorPolicy`."""
        return ActorPolicy(self, self.behavior.actor)

    def make_policy(self, **options: Any) -> TensorDictSequential:
        """Observation → latent → action, for any collector; the options are those of `policy.make_policy`."""
        return make_policy(self, **options)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The configuration's coefficients."""
        config = self.config
        quantizer = {"codebook": config.codebook_coef, "commitment": config.commitment_coef}
        return {
            "reconstruction": config.reconstruction_coef,
            **{name: quantizer[name] for name in self.space.kind.errors},
            "dynamics": config.dynamics_coef,
            "reward": config.reward_coef,
            "continue": config.continue_coef,
        }

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """Terms and the posterior latents [B, T] of rows [B, T], whose first row starts without a context.

        "dynamics", "reward" and "continue" are 0 where a new episode begins. A context is never longer than H frames:
        the transformer reads longer rows in stretches of H. With the tokenizer in training mode `AveragedCodes` move,
        and the posterior holds codes as they were.
        """
        names = self.key_map
        observation, action = self.read_observation(batch), self.read_previous_action(batch)
        reward, terminated, is_init = (batch[key] for key in (names.reward, names.terminated, names.is_init))
        is_init = torch.cat([torch.ones_like(is_init[:, :1]), is_init[:, 1:]], 1)
        image = observation[self.image_key]
        learned = image[:, -self.config.tokenizer_rows :]  # all if it is 0
        with torch.no_grad():
            seen = self.space.quantize(self.tokenizer.encode(image[:, : image.shape[1] - learned.shape[1]]))
        quantized = self.space.quantize(self.tokenizer.encode(learned), learn=self.tokenizer.training)
        indices = torch.cat([seen.indices, quantized.indices], 1)
        tokens = torch.cat([seen.tokens, quantized.tokens], 1)
        decoded = self.tokenizer.decode(quantized.tokens)
        error = decoded - learned.to(decoded.dtype) / 255
        terms = {"reconstruction": error.square().mean((-3, -2, -1))}
        terms |= quantized.errors
        terms |= self._step_terms(indices, tokens.detach(), action, reward, terminated, is_init)
        carry = self.initial_latent(batch.batch_size[:1])
        latent = self._follow_sequence(carry, action, indices, tokens, is_init)
        return terms, self.write_latent(TensorDict({}, batch_size=batch.batch_size, device=batch.device), latent)

    def _step_terms(
        self, indices: Tensor, tokens: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, is_init: Tensor
    ) -> dict[str, Tensor]:
        """What the transformer learns from [B, T] frames: [B, T−1] each."""
        time = torch.arange(is_init.shape[1] - 1, device=is_init.device)
        begin = torch.where(is_init[:, :-1, 0], time, 0).cummax(1).values
        since = time - begin
        # A number for each stretch: where it began, in episodes and in stretches of H frames.
        stretch = begin * len(time) + since // self.config.context
        mask = stretch_causal_mask(stretch, self.space.count + 1).unsqueeze(1)
        outlook = self.dynamics(tokens[:, :-1], action[:, 1:], since % self.config.context, mask)
        continuation = 1 - terminated[:, 1:].to(outlook.continue_logits.dtype)
        dynamics = F.cross_entropy(outlook.token_logits.movedim(-1, 1), indices[:, 1:], reduction="none").mean(-1)
        terms = {
            "dynamics": dynamics,
            "reward": self.dynamics.reward_head.loss(outlook.reward_logits, reward[:, 1:]),
            "continue": F.binary_cross_entropy_with_logits(
                outlook.continue_logits, continuation, reduction="none"
            ).squeeze(-1),
        }
        counts = (~is_init[:, 1:, 0]).to(dynamics.dtype)
        return {name: term * counts for name, term in terms.items()}


def _quantizer(config: TokensConfig) -> Quantizer:
    """The quantiser that the configuration names."""
    if config.quantizer == "vq":
        return LearnedCodes(config.vocabulary)
    if config.quantizer == "vq-ema":
        return AveragedCodes(config.vocabulary, config.decay)
    return FixedGrid(config.levels)


def _beside(flag: Tensor, value: Tensor) -> Tensor:
    """The flags with axes of one added at the end, or without their last where there are too many, to meet a value."""
    return flag.reshape(*flag.shape, *(1,) * (value.dim() - flag.dim())) if flag.dim() <= value.dim() else flag[..., 0]


def _only_image(spec: Composite) -> tuple[NestedKey, tuple[int, int, int]]:
    """Key and shape of the one image of an observation spec. Raises ValueError for anything else."""
    leaves = leaves_of(spec)
    images = {key: tuple(leaf.shape) for key, leaf in leaves.items() if is_byte_image(leaf)}
    if len(leaves) != 1 or len(images) != 1:
        given = {key: (tuple(leaf.shape), leaf.dtype) for key, leaf in leaves.items()}
        raise ValueError(
            f"The token world model reads one uint8 image [C, height, width] and nothing else, got {given}. Observe "
            "pixels only, or choose another family."
        )
    ((key, (channels, height, width)),) = images.items()
    return key, (channels, height, width)
