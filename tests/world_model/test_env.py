"""ImaginationEnv keeps TorchRL's contracts for any batch of starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_imagination import (
    BATCHES,
    BOX,
    COMPOSITE,
    Actor,
    assert_same,
    build,
    rollout,
    seeded,
    start_of,
)
from tensordict import TensorDict
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import Composite
from torchrl.envs import EnvBase, RewardScaling, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from worldloom_rl import ImaginationEnv, WorldModel


@pytest.mark.parametrize("action_spec", [BOX, COMPOSITE], ids=["box", "composite"])
@pytest.mark.parametrize("hard", [False, True])
def test_env_specs_hold(action_spec: Composite, hard: bool) -> None:
    env = ImaginationEnv(build(action_spec), hard_termination=hard)
    check_env_specs(env)
    check_env_specs(env, tensordict=start_of(env.model, (5,)))
    check_env_specs(TransformedEnv(env, StepCounter()))


def test_env_specs_hold_with_renamed_nested_keys() -> None:
    names = {"latent": ("my", "state"), "reward": ("my", "gain"), "continuation": ("my", "goes_on")}
    env = ImaginationEnv(build(key_map=names))
    check_env_specs(env)
    assert set(env.reward_keys) == {("my", "gain")}
    assert ("my", "state", "deterministic") in env.state_spec.keys(True, True)


def test_env_has_no_batch_size_and_no_device() -> None:
    env = ImaginationEnv(build())
    assert env.batch_size == torch.Size([])
    assert env.device is None
    assert not env.batch_locked


def test_one_instance_serves_every_batch_shape() -> None:
    env = ImaginationEnv(build())
    for batch in BATCHES:
        out = rollout(env, Actor(env.model), start_of(env.model, batch))
        assert tuple(out.batch_size) == (*batch, 6)
        assert tuple(out["next", "latent", "deterministic"].shape) == (*batch, 6, 64)
        for key in (("next", "reward"), ("next", "done"), "done", "continue", ("next", "continue")):
            assert tuple(out[key].shape) == (*batch, 6, 1)


def test_rollout_is_the_chain_of_predictions() -> None:
    model = build()
    start, actions = start_of(model, (5,)), BOX.rand(torch.Size([5, 4]))
    out = model.imagine(start, actions=actions)
    row = start.clone()
    for t in range(4):
        assert torch.equal(out["latent", "deterministic"][:, t], row["latent", "deterministic"])
        row = model.predict(row.update(actions[:, t]))
        assert torch.equal(out["next", "latent", "deterministic"][:, t], row["latent", "deterministic"])
        assert torch.equal(out["next", "reward"][:, t], row["reward"])
        assert torch.equal(out["next", "continue"][:, t], row["continue"])


def test_reset_keeps_a_given_latent_bit_for_bit() -> None:
    env = ImaginationEnv(build())
    start = start_of(env.model, (3, 4))
    assert torch.equal(
        env.reset(start.clone(), set_state=True)["latent", "deterministic"], start["latent", "deterministic"]
    )


def test_reset_without_a_latent_gives_the_initial_latent() -> None:
    env = ImaginationEnv(build())
    initial = env.model.initial_latent((2,))["deterministic"]
    assert env.reset().batch_size == torch.Size([])
    assert torch.equal(env.reset()["latent", "deterministic"], initial[0])
    assert torch.equal(env.reset(TensorDict({}, [2]))["latent", "deterministic"], initial)


@pytest.mark.filterwarnings("ignore:A reset tensordict carrying state:FutureWarning")  # of 0.14.1's TransformedEnv
@pytest.mark.parametrize("said", [{}, {"set_state": False}, {"set_state": True}], ids=str)
@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: TransformedEnv(env, StepCounter())], ids=["", "wrapped"])
def test_a_given_latent_is_kept_whatever_set_state_says(
    wrap: Callable[[ImaginationEnv], EnvBase], said: dict[str, bool]
) -> None:
    """Left out it means False from TorchRL 0.15 on, and a rollout from a start would begin at the zero latent."""
    env = wrap(ImaginationEnv(build()))
    start = start_of(build(), (2,))
    for found in (
        env.reset(start.clone(), **said),
        env._reset(start.clone(), **said),
        env.rollout(1, tensordict=start.clone(), **said)[:, 0],
    ):
        assert torch.equal(found["latent", "deterministic"], start["latent", "deterministic"])


def test_reset_to_a_missing_latent_is_an_error() -> None:
    env = ImaginationEnv(build())
    with pytest.raises(KeyError, match="deterministic"):
        env.reset(TensorDict({"observation": torch.zeros(2, 4)}, [2]), set_state=True)


def test_a_bare_start_needs_no_reset() -> None:
    env = ImaginationEnv(build())
    start, actor = start_of(env.model, (5,)), Actor(env.model)
    seeded(env.model)
    out = env.rollout(6, actor, tensordict=start.clone(), auto_reset=False)
    seeded(env.model)
    assert_same(out, rollout(env, actor, start))


@pytest.mark.parametrize("batch", BATCHES)
def test_continue_at_the_start_is_the_heads_value(batch: tuple[int, ...]) -> None:
    model = build(episodic=True)
    start, actor = start_of(model, batch), Actor(model)
    head = model.decode(start.clone())["continue"]
    assert ((head > 0) & (head < 1)).all()
    first = (*(slice(None),) * len(batch), 0)
    assert torch.equal(rollout(ImaginationEnv(model), actor, start)["continue"][first], head)
    assert torch.equal(model.imagine(start, actor, horizon=2)["continue"][first], head)


def test_continue_is_one_without_a_head() -> None:
    model = build(episodic=False)
    out = rollout(ImaginationEnv(model), Actor(model), start_of(model, (5,)))
    assert (out["continue"] == 1).all()
    assert (out["next", "continue"] == 1).all()


def test_done_stays_false_however_unlikely_it_is_to_go_on() -> None:
    model = build()
    with torch.no_grad():
        model.termination_head[-1].bias.fill_(100.0)
    out = rollout(ImaginationEnv(model), None, start_of(model, (5,)))
    assert out.batch_size == torch.Size([5, 6])
    assert (out["next", "continue"] < 1e-6).all()
    assert not out["next", "done"].any()


def test_set_seed_repeats_imagination() -> None:
    for model in (build(), seeded(build())):
        env = ImaginationEnv(model)
        start, actor = start_of(model, (5,)), Actor(model)
        outs = []
        for _ in range(2):
            env.set_seed(3)
            outs.append(rollout(env, actor, start))
        assert_same(*outs)


def test_a_stock_collector_gathers_imagination() -> None:
    env = ImaginationEnv(build())
    collector = Collector(
        env, Actor(env.model), frames_per_batch=4, total_frames=8, auto_register_policy_transforms=False
    )
    assert [data.batch_size for data in collector] == [torch.Size([4])] * 2
    collector.shutdown()


# ---------------------------------------------------------------------- termination, transforms


class Frailty(torch.nn.Module):
    """Termination logits that are positive where the latent's last entry is above a limit."""

    limit: float

    def forward(self, features: Tensor) -> Tensor:
        return 100 * (features[..., -1:] - self.limit)


def mortal() -> tuple[WorldModel, Actor]:
    """A model, and an actor under whom some of its rows end within six steps and some go on."""
    model = build()
    actor = Actor(model)
    model.termination_head = Frailty()
    model.termination_head.limit = 0.0
    with torch.no_grad():
        for layer in model.dynamics:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(3)  # latents that depend on the start, not only on the weights
        last = model.imagine(start_of(model, (64,)), actor, horizon=6)["next", "latent", "deterministic"][..., -1]
    model.termination_head.limit = last.quantile(0.9).item()
    return model, actor


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("stopping", [{}, {"break_when_any_done": False}, {"break_when_all_done": True}], ids=str)
def test_hard_termination_is_a_sticky_cut_that_spares_the_batch(wrapped: bool, stopping: dict[str, bool]) -> None:
    model, actor = mortal()
    start = start_of(model, (16,))
    env = ImaginationEnv(model, hard_termination=True)
    if wrapped:
        env = TransformedEnv(env, StepCounter())
    seeded(model)
    soft = model.imagine(start, actor, horizon=6)
    seeded(model)
    hard = env.rollout(6, actor, tensordict=start.clone(), set_state=True, **stopping)

    assert hard.batch_size == torch.Size([16, 6])
    alive = torch.cat([soft["continue"][:, :1], soft["next", "continue"]], 1).ge(0.5).long().cumprod(1).bool()
    assert alive[:, -1].any()
    assert not alive[:, -1].all()
    assert torch.equal(hard["continue"], alive[:, :-1].float())
    assert torch.equal(hard["next", "continue"], alive[:, 1:].float())
    assert torch.equal(hard["next", "terminated"], ~alive[:, 1:])
    assert torch.equal(hard["next", "done"], ~alive[:, 1:])
    assert not hard["done"].any()
    # Rows that ended are imagined on: the latents are those of the soft environment.
    assert torch.equal(hard["next", "latent", "deterministic"], soft["next", "latent", "deterministic"])


@pytest.mark.parametrize("batch", BATCHES)
def test_transforms_see_batched_starts(batch: tuple[int, ...]) -> None:
    model = build()
    start, actor = start_of(model, batch), Actor(model)
    plain = rollout(ImaginationEnv(seeded(model)), actor, start)
    env = TransformedEnv(ImaginationEnv(seeded(model)), StepCounter())
    env.append_transform(RewardScaling(0.0, 2.0))
    out = rollout(env, actor, start)
    counts = torch.arange(6).unsqueeze(-1).expand(*batch, 6, 1)
    assert torch.equal(out["step_count"], counts)
    assert torch.equal(out["next", "reward"], 2 * plain["next", "reward"])
    assert torch.equal(out["latent", "deterministic"], plain["latent", "deterministic"])


def test_a_transforms_own_truncation_ends_the_rollout() -> None:
    model, actor = mortal()
    env = TransformedEnv(ImaginationEnv(model, hard_termination=True), StepCounter(max_steps=3))
    out = rollout(env, actor, start_of(model, (5,)))
    assert out.batch_size == torch.Size([5, 3])
    assert out["next", "truncated"][:, -1].all()
