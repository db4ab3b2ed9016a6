"""Predictors of the next latent: what they learn, where they disagree, and what their disagreement teaches."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from test_imagined_actor_critic import behavior_for, build, starts
from torch import nn

from worldloom_rl import ImaginedActorCriticLoss, MPPIPlanner, WorldModel
from worldloom_rl.objectives import DisagreementLoss, LatentEnsemble, weighed_disagreement
from worldloom_rl.pretrained.registry import find_preset

MEMBERS = 3


def ensemble_for(model: WorldModel, leaf: str | None = None) -> LatentEnsemble:
    torch.manual_seed(1)
    return LatentEnsemble(model, leaf=leaf, members=MEMBERS, units=16)


def by_member(ensemble: LatentEnsemble, member: int, x: np.ndarray) -> np.ndarray:
    """One member's prediction from its own slice of the weights: linear, LayerNorm and Mish twice, and linear."""
    weights = {name: value.detach().numpy()[member] for name, value in ensemble.members.named_parameters()}
    for layer in (0, 1, 2):
        x = x @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
        if layer < 2:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
            x = x * weights[f"layers.{layer}.norm_weight"] + weights[f"layers.{layer}.norm_bias"]
            x = x * np.tanh(np.log1p(np.exp(x)))
    return x


def posterior_of(model: WorldModel, batch: int, time: int) -> TensorDict:
    leaves = {name: torch.randn(batch, time, *leaf.shape) for name, leaf in model.latent_spec.items()}
    return model.write_latent(TensorDict({}, batch_size=[batch, time]), leaves)


def rows_of(model: WorldModel, batch: int, time: int) -> TensorDict:
    rows = TensorDict({"is_init": torch.zeros(batch, time, 1, dtype=torch.bool)}, batch_size=[batch, time])
    rows["previous_action"] = model.action_spec["action"].rand(torch.Size([batch, time]))
    return rows


@pytest.mark.parametrize("leaf", [None, "stochastic"])
@pytest.mark.parametrize("action", ["continuous", "discrete"])
def test_loss_and_reward_are_those_of_numpy_member_by_member_and_episodes_are_not_bridged(
    leaf: str | None, action: str
) -> None:
    model = build("dreamerv3", action)
    ensemble = ensemble_for(model, leaf)
    posterior, rows = posterior_of(model, 2, 4), rows_of(model, 2, 4)
    rows["is_init"][1, 2] = True
    found = DisagreementLoss(model, ensemble)(posterior, rows)

    features = torch.cat([posterior["latent", "deterministic"], posterior["latent", "stochastic"].flatten(-2)], -1)
    actions = model.read_previous_action(rows)
    x = torch.cat([features[:, :-1], actions[:, 1:]], -1).numpy()
    target = features if leaf is None else posterior["latent", leaf].flatten(-2)
    predicted = np.stack([by_member(ensemble, member, x) for member in range(MEMBERS)])
    errors, spread = np.square(predicted - target[:, 1:].numpy()).mean(-1), predicted.var(0, ddof=1).mean(-1)
    inside = np.array([[True, True, True], [True, False, True]])
    np.testing.assert_allclose(found["loss_disagreement"].item(), errors[:, inside].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["disagreement"].item(), spread[inside].mean(), rtol=1e-5)
    expected = np.pad(np.where(inside, spread / spread[inside].mean() - 1, 0.0), ((0, 0), (1, 0)))
    np.testing.assert_allclose(found["reward"].squeeze(-1), expected, rtol=1e-4, atol=1e-5)


def test_the_unit_of_the_reward_is_the_running_mean_of_the_disagreement_and_stays_in_evaluation() -> None:
    model = build("dreamerv3", "continuous")
    loss = DisagreementLoss(model, ensemble_for(model))
    rows, means = rows_of(model, 2, 4), []
    for _ in range(3):
        means.append(loss(posterior_of(model, 2, 4), rows)["disagreement"].item())
    expected = means[0]
    for mean in means[1:]:
        expected += 0.1 * (mean - expected)
    assert loss.ensemble.unit.item() == pytest.approx(expected, rel=1e-5)
    loss.eval()
    loss(posterior_of(model, 2, 4), rows)
    assert loss.ensemble.unit.item() == pytest.approx(expected, rel=1e-5)


def test_it_teaches_the_members_alone() -> None:
    model = build("dreamerv3", "discrete")
    ensemble = ensemble_for(model)
    posterior = posterior_of(model, 2, 4)
    posterior.apply_(lambda leaf: leaf.requires_grad_())
    DisagreementLoss(model, ensemble)(posterior, rows_of(model, 2, 4))["loss_disagreement"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in ensemble.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert posterior["latent", "deterministic"].grad is None


def test_members_agree_where_there_was_data_and_disagree_where_there_was_none() -> None:
    model = build("tdmpc2", "continuous")
    ensemble = ensemble_for(model)
    loss, optimizer = DisagreementLoss(model, ensemble), torch.optim.Adam(ensemble.parameters(), lr=1e-2)
    start = starts(model, 64).unsqueeze(1)
    chance = torch.Generator().manual_seed(0)

    def window(low: float, high: float) -> tuple[TensorDictBase, TensorDict]:
        """One step under flat actions in that range, all dimensions alike."""
        flat = (low + (high - low) * torch.rand(64, 1, 1, generator=chance)).expand(64, 1, 3)
        with torch.no_grad():
            after = model.predict_latent(model.read_latent(start), flat, model.noise).latent
        posterior = torch.cat([start, model.write_latent(start.clone(), after)], 1)
        rows = rows_of(model, 64, 2)
        rows["previous_action"] = model.action_space.unflatten(flat)["action"].expand(-1, 2, -1)
        return posterior, rows

    for _ in range(60):
        loss(*window(-1.0, -0.2))["loss_disagreement"].backward()
        optimizer.step()
        optimizer.zero_grad()
    known, new = (loss(*window(*span))["disagreement"] for span in ((-1.0, -0.2), (0.4, 1.0)))
    assert new > 3 * known


@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2", "jepa", "tokens"])
def test_any_family_s_features_are_foreseen(family: str) -> None:
    found, config = find_preset(f"{family}:tiny")
    model = found.model_class(config, *found.model_class.default_specs())
    latent = model.initial_latent((2, 3))
    action = torch.zeros(2, 3, model.action_space.width)
    assert ensemble_for(model)(model.latent_features(latent), action).shape[:3] == (MEMBERS, 2, 3)


def test_what_cannot_be_is_refused_by_name() -> None:
    model = build("dreamerv3", "discrete")
    with pytest.raises(ValueError, match=r"'stochastik'.*Did you mean 'stochastic'"):
        LatentEnsemble(model, leaf="stochastik")
    with pytest.raises(ValueError, match="members must be at least 2, got 1"):
        LatentEnsemble(model, members=1)
    found, config = find_preset("tokens:tiny")
    with pytest.raises(ValueError, match="'length' holds whole numbers"):
        LatentEnsemble(found.model_class(config, *found.model_class.default_specs()), leaf="length")


# ---------------------------------------------------------------------- what learns and plans by it


def test_an_actor_critic_learns_from_another_reward_of_what_it_imagines() -> None:
    model = build("dreamerv3", "continuous")
    ensemble = ensemble_for(model, "stochastic")
    ensemble.unit.fill_(0.5)
    start = starts(model)
    behaviors = [behavior_for(model)]
    behaviors.append(copy.deepcopy(behaviors[0]))

    def losses(behavior: nn.Module, **options: object) -> TensorDict:
        torch.manual_seed(2)
        return ImaginedActorCriticLoss(model, behavior, horizon=3, **options)(start)

    plain, curious = losses(behaviors[0]), losses(behaviors[1], reward=ensemble.reward)
    torch.manual_seed(2)
    policy = ImaginedActorCriticLoss(model, behaviors[0]).policy
    dream = model.dream(model.read_latent(start), policy.act_on, 3, model.noise)
    taken = model.action_space.bounded(dream.action)
    expected = ensemble(dream.features[:-1], taken).var(0).mean() / 0.5 - 1
    torch.testing.assert_close(curious["imagined_reward"], expected)
    assert plain["imagined_reward"] != curious["imagined_reward"]
    assert not curious["lambda_return"].requires_grad
    assert all(p.grad is None for p in ensemble.parameters())


def test_a_planner_seeks_or_shuns_what_the_members_disagree_about() -> None:
    model = build("tdmpc2", "continuous")
    start = starts(model, 2)
    latent = model.read_latent(start)
    found = {}
    for weight in (-1e3, 0.0, 1e3):
        ensemble = ensemble_for(model)
        planner = MPPIPlanner(model, bonus=weighed_disagreement(model, ensemble, weight), num_samples=64, horizon=1)
        torch.manual_seed(0)
        mean = planner.init_mean.expand(2, 1, -1)
        plan = planner.plan(latent, mean, model.noise, explore=False)
        found[weight] = ensemble.disagreement(model.latent_features(latent), plan.action).mean()
    assert found[-1e3] < found[0.0] < found[1e3]
    again = copy.deepcopy(planner)
    torch.manual_seed(0)
    torch.testing.assert_close(again.plan(latent, mean, again.model.noise, explore=False).action, plan.action)
