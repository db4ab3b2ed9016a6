"""DreamerV3's actor and critic losses: of both in the imagination of any world model, of the critic on replay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.objectives import LossModule

from worldloom_rl.functional.returns import lambda_return
from worldloom_rl.keys import LAMBDA_RETURN, TRUNCATED
from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.nn.heads import Actor
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, LatentPolicy, WorldModel

# [..., 1] of a step, from the features [..., F] that it starts at and its flat action [..., A].
FeatureReward = Callable[[Tensor, Tensor], Tensor]
_DETERMINISTIC = (ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN)


class ActorPolicy(LatentPolicy):
    """Acts by an actor over the model's features: a sample, or its mode under ExplorationType.DETERMINISTIC or MODE.

    Args:
        sample_always: a sample in evaluation too, as the official DreamerV3 does.
    """

    def __init__(self, model: WorldModel, actor: Actor, *, sample_always: bool = False) -> None:
        super().__init__(model)
        self.actor = actor
        self.sample_always = sample_always

    def act(self, latent: Latent, noise: Noise) -> Tensor:
        return self.act_on(self.model.latent_features(latent), noise)

    def act_on(self, features: Tensor, noise: Noise) -> Tensor:
        """[..., A] flat action from features [..., F]."""
        distribution = self.actor(features)
        if exploration_type() in _DETERMINISTIC and not self.sample_always:
            return distribution.mode  # type: ignore[no-any-return]
        return distribution.sample(noise)  # type: ignore[no-any-return]


class ImaginedActorCriticLoss(LossModule):  # type: ignore[misc]
    """Losses of an actor and a critic on rollouts that the model imagines; the model gets no gradient.

    Reads start latents [*B]; writes "loss_actor" (REINFORCE with an entropy bonus), "loss_critic" (the λ-returns as
    two-hot targets, and the slow critic's values), metrics, and "lambda_return" [*B, H], by which a replay value loss
    bootstraps. In training mode each call moves the running range of returns first.

    Args:
        model: any world model; its `discount` times the probability of going on weighs what comes later.
        behavior: actor, critic and slow critic over the model's features; need not be the model's own.
        horizon: H imagined steps.
        actor_coef, critic_coef: weights of the two losses.
        reward: of an imagined step, in place of the one that the model foresees, such as `LatentEnsemble.reward`.
    Reference: dreamerv3 agent.py, imag_loss.
    """

    model: WorldModel
    behavior: ActorCritic
    policy: ActorPolicy

    def __init__(
        self,
        model: WorldModel,
        behavior: ActorCritic,
        *,
        horizon: int = 15,
        lambda_: float = 0.95,
        entropy_coef: float = 3e-4,
        slow_coef: float = 1.0,
        actor_coef: float = 1.0,
        critic_coef: float = 1.0,
        reward: FeatureReward | None = None,
    ) -> None:
        super().__init__()
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1 imagined step, got {horizon}.")
        self.model = model
        self.behavior = behavior
        self.policy = ActorPolicy(model, behavior.actor, sample_always=True)
        self.horizon = horizon
        self.lambda_, self.entropy_coef, self.slow_coef = lambda_, entropy_coef, slow_coef
        self.actor_coef, self.critic_coef = actor_coef, critic_coef
        self.reward = reward
        self.in_keys = list(model.latent_keys)
        self.out_keys = ["loss_actor", "loss_critic", LAMBDA_RETURN]

    def forward(self, tensordict: TensorDictBase, noise: Noise | None = None) -> TensorDict:
        """Losses and metrics without batch dimensions, and "lambda_return" [*B, H], from latents [*B, …]."""
        start = {name: value.detach() for name, value in self.model.read_latent(tensordict).items()}
        noise = self.model.noise if noise is None else noise
        features, action, reward, continuation = self.model.dream(start, self.policy.act_on, self.horizon, noise)
        if self.reward is not None:
            reward = self.reward(features[:-1], self.model.action_space.bounded(action))
        reward = torch.cat([torch.zeros_like(reward[:1]), reward])  # of the start, which no return reads
        reward, continuation, discount = (x.squeeze(-1) for x in (reward, continuation, self.model.discount(start)))
        losses = self.losses(features, action, reward, continuation, discount)
        losses[LAMBDA_RETURN] = losses[LAMBDA_RETURN].movedim(0, -1)
        return losses

    def losses(
        self, features: Tensor, action: Tensor, reward: Tensor, continuation: Tensor, discount: Tensor
    ) -> TensorDict:
        """As `forward`, from what was imagined, all without gradient; time comes first, also in the returns [H, ...].

        Args:
            features: [1 + H, ..., F]; action: [H, ..., A] as the actor drew it, taken from the first H.
            reward, continuation: [1 + H, ...], of arriving at each; discount broadcasts against them.
        """
        behavior = self.behavior
        logits = behavior.critic(features[:-1])
        with torch.no_grad():
            live = continuation * discount
            last = behavior.critic(features[-1:])  # of which only the value is used
            value = torch.cat([behavior.critic.mean(part).squeeze(-1) for part in (logits.detach(), last)])
            # Without gradient the steps need not be read together, and one by one they fit a cache.
            slow_critic = behavior.slow_critic
            slow_value = torch.stack([slow_critic.mean(slow_critic(row)) for row in features[:-1]])
            time_last = [x.movedim(0, -1) for x in (reward, value, live)]
            returns = lambda_return(time_last[0], time_last[1], time_last[2], None, self.lambda_).movedim(-1, 0)
            if self.training:
                behavior.return_range.update(returns)
            scale = behavior.return_range.scale()
            advantage = (returns - value[:-1]) / scale
            # Each step counts by the probability that imagination is still alive there, the start's own included.
            # The start is not discounted; where γ is 0 that cannot be divided out, and only it counts.
            undiscounted = torch.cat([continuation[:1], live[1:]]).cumprod(0)
            weight = torch.where(discount > 0, live.cumprod(0) / discount, undiscounted)[:-1]

        policy = behavior.actor(features[:-1])
        log_probability = policy.log_probability(action).squeeze(-1)
        entropy = policy.entropy().squeeze(-1)
        assert log_probability.shape == advantage.shape == weight.shape
        actor_terms = -weight * (log_probability * advantage + self.entropy_coef * entropy)
        critic_error = behavior.critic.loss(logits, returns.unsqueeze(-1), (self.slow_coef, slow_value))
        critic_terms = weight * critic_error
        return TensorDict(
            {
                "loss_actor": self.actor_coef * actor_terms.mean(),
                "loss_critic": self.critic_coef * critic_terms.mean(),
                "policy_entropy": entropy.detach().mean(),
                "imagined_reward": reward[1:].mean(),
                "imagined_return": returns.mean(),
                "return_scale": scale,
                LAMBDA_RETURN: returns,
            },
            batch_size=[],
        )


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
