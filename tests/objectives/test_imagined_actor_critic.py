"""The actor-critic losses: whom they teach, in any family's imagination."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, Composite, TensorSpec, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl import ImaginedActorCriticLoss, ModeNoise, ReplayValueLoss, WorldModel
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.objectives import ActorPolicy
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes.dreamerv3 import compute_losses, make_losses

ACTIONS: dict[str, TensorSpec] = {"continuous": Bounded(-2.0, 1.0, (3,)), "discrete": Categorical(4)}


def build(family: str, action: str) -> WorldModel:
    torch.manual_seed(0)
    found, config = find_preset(f"{family}:tiny")
    model = found.model_class(config, Composite(observation=Unbounded((5,))), Composite(action=ACTIONS[action]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # heads that start at zero pass no gradient back
    return model


def rows(model: DreamerV3, batch: int = 3) -> TensorDict:
    config = model.config
    shape = (batch, 6 + config.replay_context)
    td = model.observation_spec.rand(torch.Size(shape))
    td["previous_action"] = model.action_spec["action"].rand(torch.Size(shape))
    td["reward"] = torch.randn(*shape, 1)
    for flag in ("terminated", "truncated", "is_init"):
        td[flag] = torch.zeros(*shape, 1, dtype=torch.bool)
    return model.write_latent(td, model.initial_latent(shape))


def starts(model: WorldModel, count: int = 6) -> TensorDictBase:
    with torch.no_grad():
        return model.encode(model.observation_spec.rand(torch.Size([count]))).select(*model.latent_keys)


def behavior_for(model: WorldModel) -> ActorCritic:
    width = model.latent_features(model.initial_latent()).shape[-1]
    return ActorCritic(width, model.action_space, units=16, actor_layers=1, critic_layers=1, bins=41)


def taught(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())


# Which module each term teaches (dreamerv3, measured on the official code: gradnorm of the golden files).
TABLE = {
    "loss_dynamics": {"encoder", "rssm"},  # the encoder only through what later rows remember
    "loss_representation": {"encoder", "rssm"},
    "loss_reconstruction_observation": {"encoder", "rssm", "decoder"},
    "loss_reward": {"encoder", "rssm", "reward_head"},
    "loss_continue": {"encoder", "rssm", "continue_head"},
    "loss_actor": {"behavior.actor"},
    "loss_critic": {"behavior.critic"},
    "loss_replay_value": {"encoder", "rssm", "behavior.critic"},
}
MODULES = ("encoder", "rssm", "decoder", "reward_head", "continue_head", "behavior.actor", "behavior.critic")


@pytest.mark.parametrize("action", ACTIONS)
def test_each_loss_reaches_exactly_the_modules_it_should(action: str) -> None:
    model = build("dreamerv3", action)
    model.config = replace(model.config, free_nats=0.0)  # below them the divergences teach nobody
    terms, _, _ = compute_losses(make_losses(model), rows(model))
    assert set(terms) == set(TABLE)
    for name, term in terms.items():
        model.zero_grad()
        term.backward(retain_graph=True)
        assert {module for module in MODULES if taught(model.get_submodule(module))} == TABLE[name], name
    assert not any(p.requires_grad for p in model.behavior.slow_critic.parameters())


@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2"])
@pytest.mark.parametrize("action", ACTIONS)
def test_an_actor_learns_in_the_imagination_of_any_family_and_the_model_gets_no_gradient(
    family: str, action: str
) -> None:
    model = build(family, action)
    behavior = behavior_for(model)
    loss = ImaginedActorCriticLoss(model, behavior, horizon=4)
    losses = loss(starts(model))
    assert losses["lambda_return"].shape == (6, 4)
    (losses["loss_actor"] + losses["loss_critic"]).backward()
    assert taught(behavior.actor)
    assert taught(behavior.critic)
    own = {id(p) for p in behavior.parameters()}
    assert all(p.grad is None for p in model.parameters() if id(p) not in own)


def test_the_actor_finds_the_action_that_imagination_rewards() -> None:
    model = build("dreamerv3", "continuous")
    target = torch.tensor([0.5, -0.5, 0.0])
    behavior = behavior_for(model)
    loss = ImaginedActorCriticLoss(model, behavior, entropy_coef=1e-4)
    optimizer = torch.optim.Adam(behavior.parameters(), lr=1e-2)
    features = torch.randn(4, 64, model.latent_features(model.initial_latent()).shape[-1])
    goes_on = torch.tensor([1.0, 0.1, 0.1, 0.1]).unsqueeze(-1).expand(4, 64)
    for _ in range(300):
        with torch.no_grad():
            action = behavior.actor(features[:-1]).sample(model.noise)
            reward = -5 * (action - target).square().sum(-1)
        rewards = torch.cat([torch.zeros(1, 64), reward])
        losses = loss.losses(features, action, rewards, goes_on, torch.ones(1))
        (losses["loss_actor"] + losses["loss_critic"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (behavior.actor(features[:1]).mode - target).abs().mean() < 0.1


def test_an_actor_policy_draws_when_exploring_and_gives_its_mode_otherwise() -> None:
    model = build("dreamerv3", "continuous")
    policy = ActorPolicy(model, model.behavior.actor)
    start = starts(model)
    latent = model.read_latent(start)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(policy.act(latent, model.noise), policy.act(latent, ModeNoise()))
        always = ActorPolicy(model, model.behavior.actor, sample_always=True)
        assert not torch.equal(always.act(latent, model.noise), always.act(latent, model.noise))
    assert not torch.equal(policy.act(latent, model.noise), policy.act(latent, model.noise))


def test_the_replay_value_starts_anew_where_an_episode_ends() -> None:
    model = build("dreamerv3", "discrete")
    loss = ReplayValueLoss(model, model.behavior, discount=0.9, coef=1.0)
    features = torch.randn(2, 5, model.latent_features(model.initial_latent()).shape[-1])
    reward, boot = torch.randn(2, 5), torch.randn(2, 5)
    last = torch.tensor([[False, True, False, False, False], [False] * 5])

    def terms(reward: Tensor) -> Tensor:
        return loss.terms(features, reward, torch.zeros_like(last), last, boot)

    changed = reward.clone()
    changed[:, 3] += 1.0
    differs = terms(reward) != terms(changed)
    assert differs.tolist() == [[False, False, True, False], [True, True, True, False]]
    assert terms(reward)[0, 1] == 0


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_a_step_counts_by_what_discount_and_continuation_leave_of_it_also_at_the_ends_of_their_range(
    discount: float,
) -> None:
    model = build("dreamerv3", "discrete")
    behavior = behavior_for(model)
    loss = ImaginedActorCriticLoss(model, behavior, entropy_coef=0.0).eval()
    features = torch.randn(4, 2, model.latent_features(model.initial_latent()).shape[-1])
    action, reward = behavior.actor(features[:-1]).sample(model.noise), torch.randn(4, 2)
    continuation = torch.tensor([1.0, 0.5, 0.0, 0.3]).unsqueeze(-1).expand(4, 2)
    losses = loss.losses(features, action, reward, continuation, torch.full((1,), discount))

    logits = behavior.critic(features)
    value, returns = behavior.critic.mean(logits).squeeze(-1), losses["lambda_return"]
    error = behavior.critic.loss(
        logits[:-1], returns.unsqueeze(-1), (1.0, behavior.slow_critic.mean(behavior.slow_critic(features[:-1])))
    )
    alive = torch.tensor([1.0, discount * 0.5, 0.0]).unsqueeze(-1)
    torch.testing.assert_close(losses["loss_critic"], (alive * error).mean())
    log_probability = behavior.actor(features[:-1]).log_probability(action).squeeze(-1)
    advantage = (returns - value[:-1]) / losses["return_scale"]
    torch.testing.assert_close(losses["loss_actor"], -(alive * log_probability * advantage).mean())
    if discount == 0.0:
        torch.testing.assert_close(returns, reward[1:])


@pytest.mark.parametrize("horizon", [1, 2**31])  # γ = 0, and 1 in float32
@pytest.mark.parametrize("in_continue", [True, False])
def test_a_dreamer_learns_at_both_ends_of_the_discounts_range(horizon: int, in_continue: bool) -> None:
    config = replace(find_preset("dreamerv3:tiny")[1], discount_horizon=horizon, discount_in_continue=in_continue)
    torch.manual_seed(0)
    model = DreamerV3(config, Composite(observation=Unbounded((5,))), Composite(action=ACTIONS["discrete"]))
    terms, _, _ = compute_losses(make_losses(model), rows(model))
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
