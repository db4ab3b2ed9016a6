"""How TD-MPC2's policy prior learns."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.objectives import LossModule

from worldloom_rl.models.tdmpc2.behavior import PolicySample
from worldloom_rl.models.tdmpc2.running_scale import RunningScale
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, WorldModel


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
