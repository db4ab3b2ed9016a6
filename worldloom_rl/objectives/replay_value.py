"""DreamerV3's critic loss on replayed rewards, which also trains the world model."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.objectives import LossModule

from worldloom_rl.functional.returns import lambda_return
from worldloom_rl.keys import TRUNCATED
from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.world_model import WorldModel


class ReplayValueLoss(LossModule):  # type: ignore[misc]
    """ "loss_replay_value" from posterior latents [B, T] (not detached), their rows and imagined returns.

    The λ-returns run over the real rewards, bootstrapped at every row by the return imagined from there, and start anew
    where an episode ends. Gradients reach the critic and, through the latents, the world model.

    Args:
        model: gives features.
        behavior: critic and slow critic.
        discount: γ, without a learned probability of going on.
        coef: weight of the loss.
    Reference: dreamerv3 agent.py, repl_loss.
    """

    model: WorldModel
    behavior: ActorCritic

    def __init__(
        self,
        model: WorldModel,
        behavior: ActorCritic,
        *,
        discount: float,
        lambda_: float = 0.95,
        slow_coef: float = 1.0,
        coef: float = 0.3,
    ) -> None:
        super().__init__()
        self.model = model
        self.behavior = behavior
        self.gamma, self.lambda_, self.slow_coef, self.coef = discount, lambda_, slow_coef, coef
        self.in_keys = list(model.latent_keys)
        self.out_keys = ["loss_replay_value"]

    def forward(self, posterior: TensorDictBase, rows: TensorDictBase, bootstrap: Tensor) -> TensorDict:
        """The weighted loss, a scalar, from latents and rows [B, T] and the imagined return [B, T] of each row."""
        names = self.model.key_map
        terminated = rows[names.terminated].squeeze(-1)
        last = terminated | rows[TRUNCATED].squeeze(-1)
        last = torch.cat([last[:, :-1] | rows[names.is_init][:, 1:].squeeze(-1), last[:, -1:]], 1)
        terms = self.terms(
            self.model.latent_features(self.model.read_latent(posterior)),
            rows[names.reward].squeeze(-1),
            terminated,
            last,
            bootstrap,
        )
        return TensorDict({"loss_replay_value": self.coef * terms.mean()}, batch_size=[])

    def terms(self, features: Tensor, reward: Tensor, terminated: Tensor, last: Tensor, bootstrap: Tensor) -> Tensor:
        """[B, T − 1] unweighted, 0 where an episode ends, from features [B, T, F] and numbers and flags [B, T]."""
        critic, slow_critic = self.behavior.critic, self.behavior.slow_critic
        live = self.gamma * (1 - terminated.to(reward.dtype))
        returns = lambda_return(reward, bootstrap.detach(), live, last, self.lambda_)
        with torch.no_grad():
            slow_value = slow_critic.mean(slow_critic(features[:, :-1].detach()))
        logits = critic(features[:, :-1])
        error = critic.loss(logits, returns.unsqueeze(-1), (self.slow_coef, slow_value))
        return (1 - last[:, :-1].to(error.dtype)) * error
