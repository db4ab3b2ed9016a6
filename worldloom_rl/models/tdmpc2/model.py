"""TD-MPC2's world model: encoder, latent dynamics, reward and termination heads, and the joint model loss.

Reference: Hansen et al. 2024 (arXiv:2310.16828) and nicklashansen/tdmpc2, common/world_model.py and tdmpc2.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl.functional.precision import at_least_float32, precise
from worldloom_rl.functional.two_hot import soft_cross_entropy, two_hot, two_hot_mean
from worldloom_rl.kernels.transforms import transformed
from worldloom_rl.latents import SimNormLatent
from worldloom_rl.models.tdmpc2.behavior import Behavior
from worldloom_rl.models.tdmpc2.config import TDMPC2Config, fields_of_tasks
from worldloom_rl.models.tdmpc2.encoder import Encoder, make_task_embedding, sort_observations, specs_of_tasks
from worldloom_rl.models.tdmpc2.policy import PolicyPrior, make_policy
from worldloom_rl.nn.ensemble import EnsembleLinear
from worldloom_rl.nn.mlp import MLP
from worldloom_rl.noise import Noise
from worldloom_rl.tasks import TaskSet
from worldloom_rl.world_model import Latent, LatentPolicy, Observation, Prediction, WorldModel, repeat_latent


class ModelTerms(NamedTuple):
    """What the model loss is made of; time first, H = T − 1 steps, E Q members, K bins."""

    next_latent: Tensor  # [H, B, L] encoded, without gradient
    td_target: Tensor  # [H, B, 1]
    latents: Tensor  # [T, B, L] rolled out from the first row
    reward_logits: Tensor  # [H, B, K]
    q_logits: Tensor  # [E, H, B, K]
    termination_logits: Tensor | None  # [H, B, 1]
    losses: dict[str, Tensor]  # each [H, B], ρ^t included


class PredictedStep(nn.Module):
    """The reward and the next state, one function to compile; it has no weights of its own."""

    def forward(
        self, reward_head: MLP, dynamics: MLP, inputs: Tensor, shared: Tensor | None, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """[..., 1] and [..., D]; inputs and shared as in `MLP.forward`, low and high the ends of the reward's bins."""
        return two_hot_mean(reward_head(inputs, shared), low, high), dynamics(inputs, shared)


class TDMPC2(WorldModel):
    """TD-MPC2 for vectors, images or both, continuous or (as an extension) discrete actions, one or several tasks.

    Args:
        config: sizes and numbers.
        observation_spec: 1-dimensional real leaves, uint8 images [C, 64, 64], and with several tasks an integer leaf
            whose last key part is "task".
        action_spec: one or several keys, see `ActionSpace`.

    `compute_loss` gives "consistency", "reward", "value" and, if episodic, "termination", each [B, H] with its time
    weight.
    """

    model_type = "tdmpc2"
    config: TDMPC2Config

    def __init__(
        self,
        config: TDMPC2Config,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
    ) -> None:
        super().__init__(config, observation_spec, action_spec, key_map)
        self.simnorm = SimNormLatent(config.latent_dim, config.simnorm_dim)
        self.latent_spec = Composite(deterministic=self.simnorm.spec())
        vectors, images, self.task_key = sort_observations(observation_spec, config.num_tasks)
        width = sum(leaf.shape.numel() for leaf in vectors.values())
        self.encoder = Encoder(config, list(vectors), width, {key: leaf.shape[0] for key, leaf in images.items()})

        task = config.task_dim if config.num_tasks else 0
        action = self.action_space.width
        hidden = [config.mlp_dim, config.mlp_dim]
        step = config.latent_dim + task + action
        self.dynamics = MLP(
            step,
            hidden,
            config.latent_dim,
            norm_output=True,
            output_activation=self.simnorm.mode,
            activation=config.activation,
        )
        self.reward_head = MLP(step, hidden, config.num_bins, activation=config.activation)
        self.termination_head = (
            MLP(config.latent_dim + task, hidden, 1, activation=config.activation) if config.episodic else None
        )
        self.predicted_step = PredictedStep()
        self.behavior = Behavior(config, self.action_space, config.latent_dim + task)
        self.task_embedding = make_task_embedding(config) if config.num_tasks else None
        if config.num_tasks:
            if not self.action_space.is_continuous:
                raise ValueError("Several tasks need continuous actions; this action spec has categorical ones.")
            self.latent_spec["task"] = Categorical(config.num_tasks, shape=(), dtype=torch.int64)
            self.register_buffer("action_masks", _action_masks(config.action_dims, action), persistent=False)
        discounts = config.discount if isinstance(config.discount, tuple) else (config.discount,)
        if config.num_tasks and len(discounts) == 1:
            discounts *= config.num_tasks
        self.register_buffer("discounts", torch.tensor(discounts), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Weights N(0, 0.02²), biases 0 (see `encoder_bias_std`), last reward and Q layers 0; convolutions keep
        PyTorch's default."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, EnsembleLinear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Embedding):
                nn.init.uniform_(module.weight, -0.02, 0.02)
        if self.encoder.state is not None and self.config.encoder_bias_std:
            first = next(module for module in self.encoder.state.modules() if isinstance(module, nn.Linear))
            nn.init.normal_(first.bias, std=self.config.encoder_bias_std)
        last = self.reward_head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        self.behavior.initialise()

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        """39 numbers observed and 6 actions in [-1, 1], the widths of Meta-World and of many DM Control tasks."""
        return (
            Composite(observation=Unbounded((39,), device="cpu")),
            Composite(action=Bounded(-1.0, 1.0, shape=(6,), dtype=torch.float32, device="cpu")),
        )

    @classmethod
    def for_tasks(cls, config: TDMPC2Config, tasks: TaskSet) -> TDMPC2:
        """A model of these tasks, for the environments of `envs.tasks.make_task_env`.

        Args:
            config: of any tasks; its discounts are kept if there is one for each of these, else they are those of the
                tasks' lengths.
        """
        fields = fields_of_tasks(tasks)
        if isinstance(config.discount, tuple) and len(config.discount) == len(tasks):
            fields["discount"] = config.discount
        return cls(dataclasses.replace(config, **fields), *specs_of_tasks(tasks))

    @property
    def tasks(self) -> TaskSet | None:
        """The tasks that it knows, by number; None of a model of one task, or of tasks without names."""
        tasks: TaskSet | None = self.config.tasks
        return tasks

    # ------------------------------------------------------------------ the tensor core

    @property
    def recurrent(self) -> bool:
        """False: the latent is a function of the observation alone."""
        return False

    def initial_latent(self, batch: torch.Size | tuple[int, ...] = ()) -> Latent:
        """The centre of every SimNorm group, and task 0."""
        latent = super().initial_latent(batch)
        latent["deterministic"] = latent["deterministic"] + 1.0 / self.config.simnorm_dim
        return latent

    def embed_task(self, task: Tensor | None) -> Tensor | None:
        """[..., D] embedding of int64 tasks; learned rows above norm 1 are rescaled in place, as officially."""
        if self.task_embedding is None or task is None:
            return None
        if self.config.fixed_task_embedding or not transformed():
            return self.task_embedding(task)  # type: ignore[no-any-return]
        row = F.embedding(task, self.task_embedding.weight)  # under torch.func weights stay as they are
        scale = 1.0 / (row.detach().norm(dim=-1, keepdim=True) + 1e-7)
        return row + (row * scale.clamp(max=1.0) - row).detach()

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        task = observation[self.task_key] if self.task_key is not None else None
        latent = {"deterministic": self.simnorm.mode(self.encoder(observation, self.embed_task(task), noise))}
        return latent if task is None else {**latent, "task": task}

    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        return self.encode_latent(observation, noise)

    def latent_features(self, latent: Latent) -> Tensor:
        z = latent["deterministic"]
        task = self.embed_task(latent.get("task"))
        return z if task is None else torch.cat([z, task.expand(*z.shape[:-1], -1)], -1)

    def discount(self, latent: Latent) -> Tensor:
        return self.discounts[latent["task"]].unsqueeze(-1) if "task" in latent else self.discounts

    def action_mask(self, latent: Latent) -> Tensor | None:
        return self.action_masks[latent["task"]] if "task" in latent else None

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        return self._predict(latent, _join(self.latent_features(latent), action), None)

    def predict_branches(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        shared = self.latent_features(latent)
        return self._predict(repeat_latent(latent, action.shape[-2]), action.to(shared.dtype), shared)

    def _predict(self, latent: Latent, inputs: Tensor, shared: Tensor | None) -> Prediction:
        config = self.config
        reward, state = self.predicted_step(self.reward_head, self.dynamics, inputs, shared, config.vmin, config.vmax)
        arrived = {**latent, "deterministic": state}
        return Prediction(arrived, reward, self._continuation(arrived))

    @property
    def decoded_keys(self) -> tuple[NestedKey, ...]:
        return () if self.termination_head is None else (self.key_map.continuation,)

    def decode_latent(self, latent: Latent) -> dict[NestedKey, Tensor]:
        return {} if self.termination_head is None else {self.key_map.continuation: self._continuation(latent)}

    def _continuation(self, latent: Latent) -> Tensor:
        if self.termination_head is None:
            state = latent["deterministic"]
            return torch.ones_like(state[..., :1], dtype=precise(state.dtype))
        return torch.sigmoid(-at_least_float32(self.termination_head(self.latent_features(latent))))

    def step_modules(self) -> list[nn.Module]:
        behavior = self.behavior
        model = [self.dynamics, self.reward_head, self.predicted_step]
        parts = [self.encoder.state, *model, self.termination_head, behavior.policy]
        return [*(part for part in parts if part is not None), behavior.q_ensemble, behavior.target_q_ensemble]

    def terminal_value(self, latent: Latent, noise: Noise) -> Tensor:
        """[..., 1] the target Qs' value of what the policy prior would do."""
        return self.behavior.value(self.latent_features(latent), self.action_mask(latent), noise)

    # ------------------------------------------------------------------ acting and learning

    def make_actor(self) -> LatentPolicy:
        """The policy prior, which acts without a plan."""
        return PolicyPrior(self)

    def make_policy(self, **options: Any) -> TensorDictSequential:
        """Observation → latent → plan → action, for any collector; the options are those of `make_planner`."""
        return make_policy(self, **options)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The configuration's coefficients."""
        config = self.config
        weights = {"consistency": config.consistency_coef, "reward": config.reward_coef, "value": config.value_coef}
        return {**weights, "termination": config.termination_coef} if config.episodic else weights

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """Terms [B, H] from [B, T = H + 1] rows of one episode each, and the latents rolled out from the first row.

        The posterior holds the latent [B, T, …], and "continue" [B, T, 1] if episodic: 1 at the first row, which others
        follow, then the predictions. Gradients reach every world-model weight and the Qs through the terms.
        """
        observation = {key: _time_first(value) for key, value in self.read_observation(batch).items()}
        action = _time_first(self.read_previous_action(batch))[1:]
        reward = _time_first(batch[self.key_map.reward])[1:]
        terminated = _time_first(batch[self.key_map.terminated])[1:].to(reward.dtype)
        terms = self.model_terms(observation, action, reward, terminated, noise or self.noise)
        latent = {"deterministic": _time_first(terms.latents)}
        if self.task_key is not None:
            latent["task"] = batch[self.task_key]
        posterior = self.write_latent(TensorDict({}, batch_size=batch.batch_size, device=batch.device), latent)
        if terms.termination_logits is not None:
            continuation = _time_first(torch.sigmoid(-terms.termination_logits))
            posterior[self.key_map.continuation] = F.pad(continuation, (0, 0, 1, 0), value=1.0)
        return {name: _time_first(term) for name, term in terms.losses.items()}, posterior

    def model_terms(
        self, observation: Observation, action: Tensor, reward: Tensor, terminated: Tensor, noise: Noise
    ) -> ModelTerms:
        """Every quantity of the model loss, in the order of the official `_update`.

        Args:
            observation: leaves [T, B, …], time first.
            action: [H, B, A] flat, action[t] leads from row t to row t + 1; reward, terminated: [H, B, 1].
        """
        rows = [{key: value[t] for key, value in observation.items()} for t in range(action.shape[0] + 1)]
        # Targets read the online encoder without gradient; only the Qs have a slow copy.
        with torch.no_grad():
            encoded = [self.encode_latent(row, noise) for row in rows[1:]]
            arrived = {name: torch.stack([latent[name] for latent in encoded]) for name in encoded[0]}
            td_target = self.td_target(arrived, reward, terminated, noise)

        latent = self.encode_latent(rows[0], noise)
        latents = [latent["deterministic"]]
        for step in action:
            latent = {**latent, "deterministic": self.dynamics(_join(self.latent_features(latent), step))}
            latents.append(latent["deterministic"])
        rolled = torch.stack(latents)
        before = {**arrived, "deterministic": rolled[:-1]}
        steps = _join(self.latent_features(before), action)
        reward_logits = self.reward_head(steps)
        q_logits = self.behavior.q(steps, dropout=noise if self.training else None)

        weight = self.config.rho ** torch.arange(len(action), device=reward.device, dtype=reward.dtype).unsqueeze(-1)
        losses = {
            "consistency": weight * at_least_float32(rolled[1:] - arrived["deterministic"]).square().mean(-1),
            "reward": weight * soft_cross_entropy(reward_logits, self._two_hot(reward)),
            "value": weight * soft_cross_entropy(q_logits, self._two_hot(td_target)).mean(0),
        }
        termination_logits = None
        if self.termination_head is not None:
            after = {**arrived, "deterministic": rolled[1:]}
            termination_logits = at_least_float32(self.termination_head(self.latent_features(after)))
            ended = terminated.to(termination_logits.dtype)
            entropy = F.binary_cross_entropy_with_logits(termination_logits, ended, reduction="none")
            losses["termination"] = entropy.squeeze(-1)  # without ρ^t
        return ModelTerms(
            arrived["deterministic"], td_target, rolled, reward_logits, q_logits, termination_logits, losses
        )

    def td_target(self, arrived: Latent, reward: Tensor, terminated: Tensor, noise: Noise) -> Tensor:
        """[..., 1] reward of arriving plus, unless terminated (0 or 1), γ times the target Qs' value of that latent."""
        value = self.behavior.target_value(self.latent_features(arrived), self.action_mask(arrived), noise)
        return reward + self.discount(arrived) * (1 - terminated) * value

    def _two_hot(self, x: Tensor) -> Tensor:
        return two_hot(x, self.config.vmin, self.config.vmax, self.config.num_bins)


def _join(features: Tensor, action: Tensor) -> Tensor:
    return torch.cat([features, action.to(features.dtype)], -1)


def _time_first(x: Tensor) -> Tensor:
    """[B, T, …] ↔ [T, B, …]."""
    return x.transpose(0, 1)


def _action_masks(action_dims: tuple[int, ...], width: int) -> Tensor:
    if max(action_dims) > width:
        raise ValueError(f"A task uses {max(action_dims)} action dimensions, but the action spec has only {width}.")
    return torch.stack([(torch.arange(width) < valid).float() for valid in action_dims])
