"""ImaginationEnv keeps TorchRL's contracts for any batch of starts, and `imagine` packs what its rollout gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import RewardScaling, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from worldloom_rl import GeneratorNoise, ImaginationEnv, LatentPolicy, WorldModel
from worldloom_rl.noise import Noise
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.world_model import Latent

BATCHES = [(), (5,), (3, 4)]
BOX = Composite(action=Bounded(-2.0, 1.0, shape=(2,), dtype=torch.float32))
COMPOSITE = Composite(steering=Bounded(-2.0, 1.0, shape=(2,)), gripper=Composite(mode=Categorical(3)))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def build(action_spec: Composite = BOX, *, episodic: bool = True, key_map: dict | None = None) -> WorldModel:
    """A small TD-MPC2 whose heads, zero when fresh, say something."""
    family, config = find_preset("tdmpc2:tiny")
    config = dataclasses.replace(config, episodic=episodic)
    model = family.model_class(config, Composite(observation=Unbounded((4,))), action_spec, key_map)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def seeded(model: WorldModel) -> WorldModel:
    model.noise = GeneratorNoise(torch.Generator().manual_seed(7))
    return model


def start_of(model: WorldModel, batch: tuple[int, ...]) -> TensorDict:
    observation = TensorDict({"observation": torch.randn(*batch, 4)}, batch)
    return model.encode(observation).select(*model.latent_keys).detach()


class Actor(LatentPolicy):
    """Noisy actions of a random linear map; one-hot groups take the likeliest class."""

    weight: Tensor

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        width = model.latent_features(model.initial_latent()).shape[-1]
        self.weight = torch.nn.Parameter(torch.randn(width, model.action_space.width))

    def act(self, latent: Latent, noise: Noise) -> Tensor:
        logits = self.model.latent_features(latent) @ self.weight
        action = torch.tanh(logits + noise.normal("actor", logits.shape, logits))
        for start, stop in self.model.action_space.groups:
            best = torch.nn.functional.one_hot(logits[..., start:stop].argmax(-1), stop - start)
            action = torch.cat([action[..., :start], best.to(action.dtype), action[..., stop:]], -1)
        return action


class CountingActor(TensorDictModuleBase):
    """An actor that carries a counter, as planners carry their warm start, and writes a leaf of its own."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = actor
        self.in_keys = [*actor.in_keys, ("memory", "count")]
        self.out_keys = [*actor.out_keys, "size", ("memory", "count"), ("next", "memory", "count")]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.actor(tensordict)
        tensordict["size"] = tensordict["action"].norm(dim=-1)
        count = tensordict["memory", "count"] + 1
        return tensordict.set(("memory", "count"), count).set(("next", "memory", "count"), count)


def rollout(
    env: ImaginationEnv | TransformedEnv, policy: TensorDictModuleBase | None, start: TensorDict, steps: int = 6
) -> TensorDict:
    return env.rollout(steps, policy, tensordict=start.clone(), set_state=True)


def assert_same(found: TensorDictBase, expected: TensorDictBase) -> None:
    """Same keys, dimension names, device, and values bit for bit."""
    assert set(found.keys(True)) == set(expected.keys(True))
    assert found.batch_size == expected.batch_size
    assert found.names == expected.names
    assert found.device == expected.device
    for key in expected.keys(True, True):
        assert found[key].dtype == expected[key].dtype
        assert torch.equal(found[key], expected[key]), key


# ---------------------------------------------------------------------- the environment


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
    ignored = env.reset(start_of(env.model, (2,)), set_state=False)
    assert torch.equal(ignored["latent", "deterministic"], initial)


def test_reset_without_set_state_warns_as_torchrl_does() -> None:
    env = ImaginationEnv(build())
    with pytest.warns(FutureWarning, match="set_state"):
        env.reset(start_of(env.model, (2,)))


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


# ---------------------------------------------------------------------- imagine


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


@pytest.mark.parametrize("actor_class", [Actor, lambda model: CountingActor(Actor(model))], ids=["latent", "counting"])
def test_other_entries_of_the_start_travel_as_in_a_rollout(actor_class: type[Actor]) -> None:
    model = build()
    actor = actor_class(model)
    start = start_of(model, (5,))
    start.update({"goal": torch.randn(5, 3), "memory": {"count": torch.zeros(5, 1)}})
    expected = rollout(ImaginationEnv(seeded(model)), actor, start)
    found = seeded(model).imagine(start, actor, horizon=6)
    assert_same(found, expected)
    assert torch.equal(found["goal"][:, 5], start["goal"])
    if isinstance(actor, CountingActor):
        assert found["memory", "count"][0].flatten().tolist() == [1, 2, 3, 4, 5, 6]


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
