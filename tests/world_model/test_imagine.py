"""`imagine` packs what a rollout of `ImaginationEnv` gives, bit for bit."""

from __future__ import annotations

import pytest
import torch
from small_imagination import (
    BATCHES,
    BOX,
    COMPOSITE,
    Actor,
    CountingActor,
    assert_same,
    build,
    rollout,
    seeded,
    start_of,
)
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.data import Composite

from worldloom_rl import GeneratorNoise, ImaginationEnv


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("action_spec", [BOX, COMPOSITE], ids=["box", "composite"])
def test_imagine_equals_rollout_bit_for_bit(batch: tuple[int, ...], action_spec: Composite) -> None:
    model = build(action_spec)
    start, actor = start_of(model, batch), Actor(model)
    expected = rollout(ImaginationEnv(seeded(model)), actor, start)
    assert_same(seeded(model).imagine(start, actor, horizon=6), expected)
    assert_same(seeded(model).imagine(start, TensorDictSequential(actor), horizon=6), expected)
    given = expected.select(*model.action_keys)
    assert_same(seeded(model).imagine(start, actions=given), expected.exclude("policy"))


def test_imagine_with_flat_actions_writes_them_as_the_environment_takes_them() -> None:
    model = build(COMPOSITE)
    flat = torch.tensor([[[-1.0, 1.0, 0.0, 1.0, 0.0], [0.0, 5.0, 1.0, 0.0, 0.0]]])
    out = model.imagine(start_of(model, (1,)), actions=flat)
    assert out["steering"].tolist() == [[[-2.0, 1.0], [-0.5, 1.0]]]
    assert out["gripper", "mode"].tolist() == [[1, 0]]


def test_imagine_draws_from_the_noise_it_is_given() -> None:
    model = build()
    start, actor = start_of(model, (5,)), Actor(model)
    expected = seeded(model).imagine(start, actor, horizon=3)
    model.noise = GeneratorNoise()
    given = GeneratorNoise(torch.Generator().manual_seed(7))
    assert_same(model.imagine(start, actor, horizon=3, noise=given), expected)


@pytest.mark.parametrize(
    ("actor_class", "counts"),
    [(Actor, [0] * 6), (lambda model: CountingActor(Actor(model)), [1, 2, 3, 4, 5, 6])],
    ids=["latent", "counting"],
)
def test_other_entries_of_the_start_travel_as_in_a_rollout(actor_class: type[Actor], counts: list[int]) -> None:
    model = build()
    actor = actor_class(model)
    start = start_of(model, (5,))
    start.update({"goal": torch.randn(5, 3), "memory": {"count": torch.zeros(5, 1)}})
    expected = rollout(ImaginationEnv(seeded(model)), actor, start)
    found = seeded(model).imagine(start, actor, horizon=6)
    assert_same(found, expected)
    assert torch.equal(found["goal"][:, 5], start["goal"])
    assert found["memory", "count"][0].flatten().tolist() == counts


def test_imagine_keeps_the_device_and_names_of_its_start() -> None:
    model = build()
    start, actor = start_of(model, (3, 4)), Actor(model)
    start = TensorDict(start.to_dict(), [3, 4], device="cpu", names=["batch", "time_of_start"])
    expected = rollout(ImaginationEnv(seeded(model)), actor, start)
    assert_same(seeded(model).imagine(start, actor, horizon=6), expected)
    assert expected.names == ["batch", "time_of_start", "time"]


def test_imagine_leaves_its_start_alone() -> None:
    model = build()
    start = start_of(model, (5,))
    start["memory", "count"] = torch.zeros(5, 1)
    before = start.clone()
    for policy in (Actor(model), CountingActor(Actor(model))):
        model.imagine(start, policy, horizon=3)
        assert set(start.keys(True)) == set(before.keys(True))
        assert (start == before).all()


def test_imagine_takes_a_locked_start() -> None:
    model = build()
    start = start_of(model, (5,))
    start["memory", "count"] = torch.zeros(5, 1)
    start.lock_()
    for policy in (Actor(model), CountingActor(Actor(model))):
        assert model.imagine(start, policy, horizon=3).batch_size == torch.Size([5, 3])


def test_the_fused_loop_touches_no_tensordict(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    start, actor = start_of(model, (5,)), Actor(model)
    calls: list[str] = []
    set_ = TensorDict.set

    def counted(*given: object, **settings: object) -> TensorDictBase:
        calls.append("set")
        return set_(*given, **settings)

    monkeypatch.setattr(TensorDict, "set", counted)
    model.imagine(start, actor, horizon=2)
    short = len(calls)
    model.imagine(start, actor, horizon=9)
    assert short > 0
    assert len(calls) == 2 * short


def test_gradients_of_imagine_equal_those_of_rollout() -> None:
    model = build()
    actor, origin = Actor(model), start_of(model, (5,))

    def gradients(imagined: TensorDictBase, latent: Tensor) -> list[Tensor | None]:
        survival = imagined["continue"].cumprod(-2)
        outcome = (survival * imagined["next", "reward"]).sum() + imagined["next", "latent", "deterministic"][
            :, -1, 0
        ].sum()
        return list(torch.autograd.grad(outcome, [latent, actor.weight, *model.parameters()], allow_unused=True))

    def run(fused: bool) -> list[Tensor | None]:
        start = origin.clone()
        latent = start["latent", "deterministic"].requires_grad_()
        if fused:
            return gradients(seeded(model).imagine(start, actor, horizon=6), latent)
        return gradients(rollout(ImaginationEnv(seeded(model)), actor, start.clone(False)), latent)

    for parameter in model.parameters():
        parameter.requires_grad_()
    left, right = run(True), run(False)
    assert left[0].abs().sum() > 0
    assert left[1].abs().sum() > 0
    for fused, stepped in zip(left, right, strict=True):
        assert (fused is None) == (stepped is None)
        if fused is not None:
            assert (fused - stepped).norm() <= 1e-5 * stepped.norm()


def test_imagine_of_detached_starts_reaches_policy_and_model() -> None:
    model = build()
    actor = Actor(model)
    model.imagine(start_of(model, (5,)), actor, horizon=3)["next", "reward"].sum().backward()
    assert actor.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.dynamics.parameters())


class ForwardingActor(Actor):
    """Its forward writes more than the action, so imagination must call it whole."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return super().forward(tensordict).set("seen", tensordict["continue"])


def test_imagine_calls_the_whole_of_a_policy_with_its_own_forward() -> None:
    model = build()
    actor, start = ForwardingActor(model), start_of(model, (5,))
    out = seeded(model).imagine(start, actor, horizon=3)
    assert torch.equal(out["seen"], out["continue"])
    assert_same(out, rollout(ImaginationEnv(seeded(model)), actor, start, steps=3))


@pytest.mark.parametrize("horizon", [0, -1, None])
def test_a_horizon_below_one_is_an_error(horizon: int | None) -> None:
    model = build()
    with pytest.raises(ValueError, match="horizon of at least 1"):
        model.imagine(start_of(model, (5,)), Actor(model), horizon=horizon)


def test_imagine_needs_either_a_policy_or_actions() -> None:
    model = build()
    start = start_of(model, (5,))
    with pytest.raises(ValueError, match="neither was given"):
        model.imagine(start, horizon=3)
    with pytest.raises(ValueError, match="both was given"):
        model.imagine(start, Actor(model), actions=torch.zeros(5, 3, 2))


@pytest.mark.parametrize("shape", [(5, 3, 3), (4, 3, 2), (5, 2), (5, 0, 2), (5, 3, 2, 1)])
def test_actions_of_a_wrong_shape_are_an_error(shape: tuple[int, ...]) -> None:
    model = build()
    with pytest.raises(ValueError, match=r"must have shape|0 steps"):
        model.imagine(start_of(model, (5,)), actions=torch.zeros(shape))


def test_a_horizon_that_contradicts_the_actions_is_an_error() -> None:
    model = build()
    with pytest.raises(ValueError, match="3 steps were given with horizon=4"):
        model.imagine(start_of(model, (5,)), actions=torch.zeros(5, 3, 2), horizon=4)


def test_missing_keys_are_named() -> None:
    model = build()
    with pytest.raises(KeyError, match="deterministic"):
        model.imagine(TensorDict({"observation": torch.zeros(5, 4)}, [5]), Actor(model), horizon=3)
    with pytest.raises(KeyError, match="'action'"):
        model.imagine(start_of(model, (5,)), actions=TensorDict({"act": torch.zeros(5, 3, 2)}, [5, 3]))
