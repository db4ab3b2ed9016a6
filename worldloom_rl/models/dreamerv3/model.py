"""DreamerV3's world model: encoder, recurrent state-space model, decoder, reward and continue heads.

Reference: Hafner et al. 2023 (arXiv:2301.04104) and danijar/dreamerv3, agent.py and rssm.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.functional.precision import at_least_float32, precise
from worldloom_rl.keys import as_tuple
from worldloom_rl.latents import CategoricalLatent, GaussianLatent
from worldloom_rl.models.dreamerv3.config import DreamerV3Config
from worldloom_rl.models.dreamerv3.fast.filter import can_filter_fast, filter_fast
from worldloom_rl.models.dreamerv3.fast.imagination import ImaginedStep, can_imagine_fast, imagine_fast
from worldloom_rl.models.dreamerv3.observations import Decoder, Encoder, sort_observations
from worldloom_rl.models.dreamerv3.policy import make_policy
from worldloom_rl.models.dreamerv3.rssm import RSSM, RecurrentState
from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.nn.heads import TwoHotHead, silu_mlp
from worldloom_rl.nn.initialise import initialise_layers
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import ActorPolicy
from worldloom_rl.world_model import Act, Dream, Latent, LatentPolicy, Observation, Prediction, WorldModel


class DreamerV3(WorldModel):
    """DreamerV3 for vectors, categories, images or any mix, and for any action space.

    Args:
        config: sizes and numbers.
        observation_spec: leaves of up to two dimensions, and uint8 images [C, H, W] of one size.
        action_spec: one or several keys, see `ActionSpace`.

    The latent has the leaves "deterministic" [D] and "stochastic" [S, K] ([S] if Gaussian). `compute_loss` gives
    "dynamics", "representation", "reward", "continue" and "reconstruction_<key>" for every observation key, each
    [B, T]. The behaviour learns by `ImaginedActorCriticLoss` and `ReplayValueLoss`.
    """

    model_type = "dreamerv3"
    config: DreamerV3Config
    discounts: Tensor

    def __init__(
        self,
        config: DreamerV3Config,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
    ) -> None:
        super().__init__(config, observation_spec, action_spec, key_map)
        space: CategoricalLatent | GaussianLatent
        if config.latent == "gaussian":
            space = GaussianLatent(config.groups)
        else:
            space = CategoricalLatent(config.groups, config.classes, unimix=config.unimix)
        self.latent_spec = Composite(deterministic=Unbounded((config.deterministic,)), stochastic=space.spec())

        vectors, images = sort_observations(observation_spec)
        self.encoder = Encoder(vectors, images, config.units, config.encoder_layers, config.depth)
        self.rssm = RSSM(
            space,
            deterministic=config.deterministic,
            hidden=config.hidden,
            blocks=config.blocks,
            tokens=self.encoder.width,
            action=self.action_space.width,
            prior_layers=config.prior_layers,
            posterior_layers=config.posterior_layers,
        )
        self.imagined_step = ImaginedStep()
        self.decoder = Decoder(
            vectors,
            images,
            deterministic=config.deterministic,
            stochastic=space.features_width,
            units=config.units,
            layers=config.decoder_layers,
            depth=config.depth,
        )
        features = config.deterministic + space.features_width
        self.reward_head = TwoHotHead(features, config.units, config.reward_layers, config.num_bins)
        self.continue_head = silu_mlp(features, config.units, config.continue_layers, 1)
        self.behavior = ActorCritic(
            features,
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
        discount = 1.0 if config.discount_in_continue else config.discount
        self.register_buffer("discounts", torch.tensor([discount]), persistent=False)
        for part in (self.encoder, self.rssm, self.decoder, self.reward_head, self.continue_head):
            initialise_layers(part)

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        """Images of 64 x 64 with three channels and 6 actions in [-1, 1], as in visual control."""
        return (
            Composite(pixels=Bounded(0, 255, shape=(3, 64, 64), dtype=torch.uint8, device="cpu")),
            Composite(action=Bounded(-1.0, 1.0, shape=(6,), dtype=torch.float32, device="cpu")),
        )

    # ------------------------------------------------------------------ the tensor core

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        tokens = self.encoder(observation)
        lead = tokens.shape[:-1]
        action = tokens.new_zeros(*lead, self.action_space.width)
        is_init = torch.ones(*lead, 1, dtype=torch.bool, device=tokens.device)
        return self._filter(self.initial_latent(lead), action, tokens, is_init, noise)

    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        return self._filter(previous, previous_action, self.encoder(observation), is_init, noise)

    def _filter(self, previous: Latent, action: Tensor, tokens: Tensor, is_init: Tensor, noise: Noise) -> Latent:
        return _latent(
            self.rssm.observe(previous["deterministic"], previous["stochastic"], action, tokens, is_init, noise)
        )

    def observe_sequence(
        self, carry: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        return _latent(self.filter_sequence(carry, previous_action, observation, is_init, noise))

    def filter_sequence(
        self, carry: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> RecurrentState:
        """As `observe_sequence`, with the posterior's raw parameters."""
        tokens, rssm = self.encoder(observation), self.rssm
        given = (carry["deterministic"], carry["stochastic"], previous_action, tokens, is_init, noise)
        if can_filter_fast(rssm.space, rssm.posterior, is_init):
            return filter_fast(rssm.core, rssm.posterior, rssm.space, *given)
        return rssm.observe_sequence(*given)

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        arrived = _latent(self.rssm.predict(latent["deterministic"], latent["stochastic"], action, noise))
        features = self.latent_features(arrived)
        return Prediction(arrived, self._reward(features), self._continuation(features))

    @torch.no_grad()
    def dream(self, start: Latent, act: Act, horizon: int, noise: Noise) -> Dream:
        features, action = self.dream_features(start, act, horizon, noise)
        # Step by step again, as rows of one step fit a cache.
        reward, continuation = (
            [self._reward(row) for row in features[1:]],
            [self._continuation(row) for row in features],
        )
        return Dream(features, action, torch.stack(reward), torch.stack(continuation))

    @torch.no_grad()
    def dream_features(self, start: Latent, act: Act, horizon: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """Features [1 + H, *B, F] and actions [H, *B, A] of `dream`, before any head but the actor's."""
        deterministic, stochastic = start["deterministic"], start["stochastic"]
        batch, width = deterministic.shape[:-1], deterministic.shape[-1]
        rssm, bounded = self.rssm, self.action_space.bounded
        # All that is kept of a step; the heads and the next step read it where it is.
        features = deterministic.new_empty(1 + horizon, *batch, width + rssm.space.features_width)
        features[0] = self.latent_features(start)
        if can_imagine_fast(rssm.space, rssm.prior, deterministic):
            parts = (self.imagined_step, rssm.core, rssm.prior, rssm.space)
            return features, imagine_fast(*parts, features, act, bounded, noise)
        actions: list[Tensor] = []
        for row, after in pairwise(features):
            actions.append(act(row, noise))
            deterministic, stochastic, _ = rssm.predict(deterministic, stochastic, bounded(actions[-1]), noise)
            after[..., :width] = deterministic
            after[..., width:] = rssm.space.features(stochastic)
        return features, torch.stack(actions)

    @property
    def decoded_keys(self) -> tuple[NestedKey, ...]:
        return (*self.decoder.keys, self.key_map.reward, self.key_map.continuation)

    def decode_latent(self, latent: Latent) -> dict[NestedKey, Tensor]:
        features = self.latent_features(latent)
        outputs = self.decoder(latent["deterministic"], self.rssm.space.features(latent["stochastic"]))
        return {
            **self.decoder.predictions(outputs),
            self.key_map.reward: self._reward(features),
            self.key_map.continuation: self._continuation(features),
        }

    def continuation(self, latent: Latent) -> Tensor:
        return self._continuation(self.latent_features(latent))

    def _reward(self, features: Tensor) -> Tensor:
        return self.reward_head.mean(self.reward_head(features))

    def _continuation(self, features: Tensor) -> Tensor:
        return torch.sigmoid(at_least_float32(self.continue_head(features)))

    def latent_features(self, latent: Latent) -> Tensor:
        return torch.cat([latent["deterministic"], self.rssm.space.features(latent["stochastic"])], -1)

    def discount(self, latent: Latent) -> Tensor:
        """1 where the continue head has learned γ too (`discount_in_continue`), else γ."""
        return self.discounts

    @property
    def learned_discount(self) -> float:
        """γ with `discount_in_continue`, else 1."""
        return self.config.discount if self.config.discount_in_continue else 1.0

    def step_modules(self) -> list[nn.Module]:
        behavior = self.behavior
        heads = [self.reward_head, self.continue_head, behavior.actor, behavior.critic, behavior.slow_critic]
        return [self.rssm.core, self.rssm.prior, self.imagined_step, *heads]

    def terminal_value(self, latent: Latent, noise: Noise) -> Tensor:
        """[..., 1] the critic's value."""
        return self.behavior.critic.mean(self.behavior.critic(self.latent_features(latent)))

    # ------------------------------------------------------------------ acting and learning

    def make_actor(self, *, sample_always: bool = False) -> LatentPolicy:
        """The model's actor as a policy over latents; see `ActorPolicy`."""
        return ActorPolicy(self, self.behavior.actor, sample_always=sample_always)

    def make_policy(self, **options: Any) -> TensorDictSequential:
        """Observation → posterior → action, for any collector; the options are those of `policy.make_policy`."""
        return make_policy(self, **options)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The configuration's coefficients; every observation key counts as much."""
        config = self.config
        return {
            "dynamics": config.dynamics_coef,
            "representation": config.representation_coef,
            "reward": config.reward_coef,
            "continue": config.continue_coef,
            **{reconstruction(key): config.reconstruction_coef for key in self.observation_keys},
        }

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """Terms [B, T] and the posterior latents [B, context + T], from [B, context + T] rows.

        With `replay_context` 1 the first row only gives its stored latent, from which the others are filtered; with 0
        the first row is filtered from zeros. Nothing is masked but missing observations.
        """
        noise = noise or self.noise
        names, context = self.key_map, self.config.replay_context
        observation = {key: value[:, context:] for key, value in self.read_observation(batch).items()}
        action = self.read_previous_action(batch)[:, context:]
        reward, terminated = batch[names.reward][:, context:], batch[names.terminated][:, context:]
        is_init = batch[names.is_init][:, context:]
        if context:
            carry = {name: value[:, 0] for name, value in self.read_latent(batch).items()}
        else:
            carry = self.initial_latent(batch.batch_size[:1])
            is_init = torch.cat([torch.ones_like(is_init[:, :1]), is_init[:, 1:]], 1)
        state = self.filter_sequence(carry, action, observation, is_init, noise)
        latent = _latent(state)
        terms = self.loss_terms(state, observation, reward, terminated)
        if context:
            latent = {name: torch.cat([carry[name].unsqueeze(1), value], 1) for name, value in latent.items()}
        empty = TensorDict({}, batch_size=batch.batch_size, device=batch.device)
        return terms, self.write_latent(empty, latent)

    def loss_terms(
        self, state: RecurrentState, observation: Observation, reward: Tensor, terminated: Tensor
    ) -> dict[str, Tensor]:
        """The terms [B, T] of posterior states [B, T, …] and the rows they were filtered from."""
        config, space = self.config, self.rssm.space
        posterior, prior = state.parameters, self.rssm.prior_parameters(state.deterministic)
        flat = space.features(state.stochastic)
        features = torch.cat([state.deterministic, flat], -1)
        continuation = 1 - terminated.to(precise(features.dtype))
        if config.discount_in_continue:
            continuation = continuation * config.discount
        errors = self.decoder.losses(self.decoder(state.deterministic, flat), observation)
        return {
            "dynamics": space.divergence(posterior.detach(), prior).clamp(min=config.free_nats),
            "representation": space.divergence(posterior, prior.detach()).clamp(min=config.free_nats),
            "reward": self.reward_head.loss(self.reward_head(features), reward),
            "continue": F.binary_cross_entropy_with_logits(
                at_least_float32(self.continue_head(features)), continuation, reduction="none"
            ).squeeze(-1),
            **{reconstruction(key): error for key, error in errors.items()},
        }


def reconstruction(key: NestedKey) -> str:
    """The name of the loss term of an observation key."""
    return f"reconstruction_{'_'.join(as_tuple(key))}"


def _latent(state: RecurrentState) -> Latent:
    return {"deterministic": state.deterministic, "stochastic": state.stochastic}
