"""TD-MPC2's behaviour: the policy prior, the Q ensemble with its slow copy, and how the prior learns.

Discrete actions are an extension: a categorical prior, and exact expectations over up to 64 actions where the reference
samples one.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import LossModule

from worldloom_rl import ranks
from worldloom_rl.functional.precision import PreciseBuffers, at_least_float32
from worldloom_rl.functional.squashed_gaussian import (
    bounded_log_std,
    gaussian_log_probability,
    squashed_log_probability,
)
from worldloom_rl.functional.two_hot import two_hot_mean
from worldloom_rl.kernels.one_hot import one_hot
from worldloom_rl.models.tdmpc2.config import TDMPC2Config
from worldloom_rl.nn.ensemble import EnsembleLinear, EnsembleMLP
from worldloom_rl.nn.mlp import MLP
from worldloom_rl.nn.percentile_range import percentile
from worldloom_rl.nn.slow_copy import lerp_parameters
from worldloom_rl.noise import Noise
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.world_model import Latent, WorldModel

_MOST_ENUMERATED = 64  # actions whose expectation is taken exactly when learning
_MOST_ENUMERATED_IN_PLANS = 8  # and at the end of every sampled sequence, where each costs a pass through the Qs


class PolicySample(NamedTuple):
    """A draw from the policy prior; actions are flat."""

    action: Tensor  # [..., A], with gradient to the policy
    mode: Tensor  # [..., A], tanh of the mean, or the likeliest classes
    log_std: Tensor  # [..., A], 0 for one-hot dimensions
    entropy: Tensor  # [..., 1] of real dimensions, after squashing
    scaled_entropy: Tensor  # [..., 1] of real dimensions, what the policy loss rewards
    categorical_entropy: Tensor  # [..., 1] of the one-hot groups together
    log_probabilities: Tensor  # [..., A] of one-hot dimensions, 0 for continuous ones


class _Normal(NamedTuple):
    """A draw before it is squashed; all [..., A]."""

    mean: Tensor
    log_std: Tensor
    epsilon: Tensor

    @property
    def squashed(self) -> Tensor:
        """[..., A] the action."""
        return torch.tanh(self.mean + self.epsilon * self.log_std.exp())


class Behavior(nn.Module):
    """Policy prior and Q ensemble over features [..., F] (the latent, with the task embedding where there is one)."""

    real_index: Tensor
    all_actions: Tensor | None
    target_q_ensemble: EnsembleMLP

    def __init__(self, config: TDMPC2Config, action_space: ActionSpace, features: int) -> None:
        super().__init__()
        self.config = config
        # Its own: torch.func.functional_call leaves a module that stands under two names as it was called.
        self.action_space = copy.deepcopy(action_space)
        hidden = [config.mlp_dim, config.mlp_dim]
        categorical = {place for start, stop in action_space.groups for place in range(start, stop)}
        real = [place for place in range(action_space.width) if place not in categorical]
        self.real = len(real)
        self.register_buffer("real_index", torch.tensor(real, dtype=torch.int64), persistent=False)
        self.policy = MLP(
            features, hidden, 2 * self.real + action_space.width - self.real, activation=config.activation
        )
        self.q_ensemble = EnsembleMLP(
            config.num_q,
            features + action_space.width,
            hidden,
            config.num_bins,
            dropout=config.dropout,
            activation=config.activation,
        )
        self.target_q_ensemble = copy.deepcopy(self.q_ensemble).requires_grad_(False)
        enumerate_ = 0 < action_space.combinations <= _MOST_ENUMERATED
        self.register_buffer("all_actions", action_space.enumerate() if enumerate_ else None, persistent=False)

    def initialise(self) -> None:
        """Zero the last Q layer, so that every Q starts at 0, and copy the Qs to their targets."""
        last = self.q_ensemble.layers[-1]
        assert isinstance(last, EnsembleLinear)
        nn.init.zeros_(last.weight)
        self.target_q_ensemble.load_state_dict(self.q_ensemble.state_dict())

    def update_target(self) -> None:
        """Move the target Qs by τ towards the Qs."""
        lerp_parameters(self.target_q_ensemble, self.q_ensemble, self.config.tau)

    # ------------------------------------------------------------------ policy prior

    def sample(self, features: Tensor, mask: Tensor | None, noise: Noise) -> PolicySample:
        """One action of the prior for each feature row, with its entropies.

        Args:
            features: [..., F].
            mask: [..., A] with 1 for the valid dimensions of each row's task, or None.
        """
        output = at_least_float32(self.policy(features))
        if self.action_space.is_continuous:
            return self._sample_real(output, mask, noise)
        return self._sample_mixed(output, noise)

    def act(self, features: Tensor, mask: Tensor | None, noise: Noise, *, mode: bool = False) -> Tensor:
        """[..., A] the action, or the mode, that `sample` gives from the same draws, without its entropies."""
        output = at_least_float32(self.policy(features))
        if not self.action_space.is_continuous:
            prior = self._sample_mixed(output, noise)
            return prior.mode if mode else prior.action
        normal = self._draw(output, mask, noise)
        return torch.tanh(normal.mean) if mode else normal.squashed

    def _draw(self, output: Tensor, mask: Tensor | None, noise: Noise) -> _Normal:
        mean, raw = output.chunk(2, -1)
        log_std = bounded_log_std(raw, self.config.log_std_min, self.config.log_std_max)
        epsilon = noise.normal("policy", mean.shape, mean)
        if mask is None:
            return _Normal(mean, log_std, epsilon)
        return _Normal(mean * mask, log_std * mask, epsilon * mask)

    def _sample_real(self, output: Tensor, mask: Tensor | None, noise: Noise) -> PolicySample:
        normal = self._draw(output, mask, noise)
        mean, log_std, epsilon = normal
        dimensions: Tensor | int = mean.shape[-1] if mask is None else mask.sum(-1, keepdim=True)
        action = normal.squashed
        # Masked dimensions keep their constant terms, as in the official code.
        log_probability = gaussian_log_probability(epsilon, log_std)
        scale = log_probability * dimensions
        squashed = squashed_log_probability(log_probability, action)
        # The quotient cancels the squashing but for its 1e-8: the official scaled entropy, kept as it is.
        scaled_entropy = -squashed * (scale / (squashed + 1e-8))
        zeros = torch.zeros_like(mean)
        none = torch.zeros_like(squashed)
        return PolicySample(action, torch.tanh(mean), log_std, -squashed, scaled_entropy, none, zeros)

    def _sample_mixed(self, output: Tensor, noise: Noise) -> PolicySample:
        lead, width = output.shape[:-1], self.action_space.width
        action, mode, log_std, log_probabilities = (output.new_zeros(*lead, width) for _ in range(4))
        entropy, scaled_entropy, categorical_entropy = (output.new_zeros(*lead, 1) for _ in range(3))
        if self.real:
            real = self._sample_real(output[..., : 2 * self.real], None, noise)
            action, mode, log_std = (
                whole.index_copy(-1, self.real_index, part)
                for whole, part in ((action, real.action), (mode, real.mode), (log_std, real.log_std))
            )
            entropy, scaled_entropy = real.entropy, real.scaled_entropy
        logits = output[..., 2 * self.real :]
        for (start, stop), part in zip(self.action_space.groups, self._groups(logits), strict=True):
            log_probability = part.log_softmax(-1)
            probability = log_probability.exp()
            drawn = one_hot(noise.category("policy", probability), stop - start).to(output.dtype)
            place = torch.arange(start, stop, device=output.device)
            action = action.index_copy(-1, place, drawn + (probability - probability.detach()))  # straight-through
            best = one_hot(part.argmax(-1), stop - start).to(output.dtype)
            mode = mode.index_copy(-1, place, best)
            log_probabilities = log_probabilities.index_copy(-1, place, log_probability)
            categorical_entropy = categorical_entropy - (probability * log_probability).sum(-1, keepdim=True)
        return PolicySample(action, mode, log_std, entropy, scaled_entropy, categorical_entropy, log_probabilities)

    def _groups(self, logits: Tensor) -> tuple[Tensor, ...]:
        return logits.split([stop - start for start, stop in self.action_space.groups], -1)

    # ------------------------------------------------------------------ values

    def q(
        self,
        steps: Tensor,
        *,
        target: bool = False,
        members: Tensor | None = None,
        detach: bool = False,
        dropout: Noise | None = None,
    ) -> Tensor:
        """[E, ..., K] logits of the Q members for features and flat actions side by side, [..., F + A]."""
        ensemble = self.target_q_ensemble if target else self.q_ensemble
        keep = None if dropout is None else ensemble.draw_keep(steps, dropout, members)
        return ensemble(steps, members=members, detach=detach, keep=keep)  # type: ignore[no-any-return]

    def q_pair(
        self, steps: Tensor, noise: Noise, *, target: bool = False, detach: bool = False, dropout: Noise | None = None
    ) -> Tensor:
        """[2, ..., 1] values of one random pair of members, the same pair for all rows."""
        pair = noise.permutation("pair", self.config.num_q, steps)[:2]
        logits = self.q(steps, target=target, members=pair, detach=detach, dropout=dropout)
        return two_hot_mean(logits, self.config.vmin, self.config.vmax)

    def target_value(self, features: Tensor, mask: Tensor | None, noise: Noise) -> Tensor:
        """[..., 1] value of features under the prior: the smaller of a random pair of target Qs."""
        if self.all_actions is None:
            action = self.act(features, mask, noise)
            return self.q_pair(_join(features, action), noise, target=True).amin(0)
        prior = self.sample(features, mask, noise)
        values = self.q_pair(self._every_action(features), noise, target=True).amin(0)
        return self._expectation(values, prior)

    def value(self, latent_features: Tensor, mask: Tensor | None, noise: Noise) -> Tensor:
        """[..., 1] value at the end of a plan: the mean of a random pair of Qs at an action of the prior.

        Of a few discrete actions the exact expectation, which spares the ranking of sequences the draw's noise.
        """
        if self.all_actions is not None and len(self.all_actions) <= _MOST_ENUMERATED_IN_PLANS:
            return self.policy_value(latent_features, mask, noise, None)[1]
        action = self.act(latent_features, mask, noise)
        return self.q_pair(_join(latent_features, action), noise).mean(0)

    def _every_action(self, features: Tensor) -> Tensor:
        """[..., N, F + A] each feature row beside each of the N actions."""
        assert self.all_actions is not None
        lead, count = features.shape[:-1], len(self.all_actions)
        actions = self.all_actions.expand(*lead, -1, -1)
        return _join(features.unsqueeze(-2).expand(*lead, count, -1), actions)

    def _expectation(self, values: Tensor, prior: PolicySample) -> Tensor:
        """[..., 1] mean of values [..., N, 1] of every action under the prior."""
        assert self.all_actions is not None
        log_probability = prior.log_probabilities @ self.all_actions.T
        return (log_probability.exp().unsqueeze(-1) * values).sum(-2)

    def policy_value(
        self, features: Tensor, mask: Tensor | None, noise: Noise, dropout: Noise | None
    ) -> tuple[PolicySample, Tensor]:
        """The prior's sample and its value [..., 1], the mean of a random pair of Qs whose weights get no gradient."""
        prior = self.sample(features, mask, noise)
        if self.all_actions is None:
            return prior, self.q_pair(_join(features, prior.action), noise, detach=True, dropout=dropout).mean(0)
        values = self.q_pair(self._every_action(features), noise, detach=True, dropout=dropout).mean(0)
        return prior, self._expectation(values, prior)


def _join(features: Tensor, action: Tensor) -> Tensor:
    return torch.cat([features, action.to(features.dtype)], -1)


class RunningScale(PreciseBuffers):
    """Divides by a running range between the 5th and 95th percentile, never below one.

    Args:
        rate: share of a new range that enters the running one.
    Reference: tdmpc2 common/scale.py.
    """

    value: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("value", torch.ones(1))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move the scale towards the range of x (any shape, taken with those of all processes as one sample)."""
        flat = ranks.gather(x).sort().values
        low, high = (percentile(flat, share) for share in (5.0, 95.0))
        self.value.lerp_((high - low).clamp(min=1.0).to(self.value.dtype).reshape(1), self.rate)

    def forward(self, x: Tensor) -> Tensor:
        """x divided by the scale, which gets no gradient."""
        return x / self.value


class PolicyLoss(LossModule):
    """The policy prior's loss on latents that the model rolled out; reads the latent, writes "loss_policy" and metrics.

    −(entropy_coef · scaled entropy + Q / scale), weighted by ρ^t and averaged over [B, T]; one-hot groups add an
    entropy bonus of their own. Gradients reach the policy and, as in the official code, the task embedding. Each call
    in training mode updates the running scale first.
    Reference: tdmpc2.py, update_pi.
    """

    model: WorldModel
    scale: RunningScale

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model
        self.scale = RunningScale(model.config.tau).to(model.action_space.center.device)
        self.in_keys = list(model.latent_keys)
        self.out_keys = ["loss_policy", "policy_entropy", "policy_scaled_entropy", "policy_scale"]

    def forward(self, tensordict: TensorDictBase, noise: Noise | None = None) -> TensorDictBase:
        """Losses and metrics, all without batch dimensions, from the latents [B, T, …]."""
        latent = {name: value.detach().transpose(0, 1) for name, value in self.model.read_latent(tensordict).items()}
        metrics, _, _ = self.terms(latent, noise or self.model.noise)
        return TensorDict(metrics, batch_size=[])

    def terms(self, latent: Latent, noise: Noise) -> tuple[dict[str, Tensor], PolicySample, Tensor]:
        """The metrics, the prior's sample and the unscaled values [T, B, 1] of latents [T, B, …], time first."""
        config = self.model.config
        features = self.model.latent_features(latent)
        if not config.carry_task_gradient:
            features = features.detach()
        dropout = noise if self.training else None
        prior, value = self.model.behavior.policy_value(features, self.model.action_mask(latent), noise, dropout)
        if self.training:
            self.scale.update(value[0])
        steps = torch.arange(len(value), device=value.device, dtype=value.dtype)
        entropy_bonus = config.entropy_coef * prior.scaled_entropy
        if not self.model.action_space.is_continuous:
            entropy_bonus = entropy_bonus + config.categorical_entropy_coef * prior.categorical_entropy
        objective = (entropy_bonus + self.scale(value)).mean((1, 2))
        metrics = {
            "loss_policy": -(config.rho**steps * objective).mean(),
            "policy_entropy": (prior.entropy + prior.categorical_entropy).detach().mean(),
            "policy_scaled_entropy": prior.scaled_entropy.detach().mean(),
            "policy_scale": self.scale.value.clone(),
        }
        return metrics, prior, value
