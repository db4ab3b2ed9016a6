"""Acting as a function of tensors is what the library's policy does, and draws nothing by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from family_work import make_model
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl import WorldModel
from worldloom_rl.models import dreamerv3, jepa, tdmpc2
from worldloom_rl.models.dreamerv3 import DreamerV3, DreamerV3Config
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.noise import ModeNoise, ReplayNoise
from worldloom_rl.planners import ICEMPlanner, Planner
from worldloom_rl.world_model.acting import ActingStep

BATCH = 3


def several_actions() -> WorldModel:
    action = Composite(steering=Bounded(-2.0, 4.0, shape=(2,)), gripper=Composite(mode=Categorical(3), side=OneHot(2)))
    observation = Composite(joint=Composite(position=Unbounded((3,))), touch=Unbounded((1,)))
    torch.manual_seed(0)
    return DreamerV3(DreamerV3Config.from_size("tiny"), observation, action).eval()


def given_to(step: ActingStep, seed: int) -> list[torch.Tensor]:
    """Inputs of an episode that goes on, but for the first row."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for port in step.inputs:
        shape = port.sized(BATCH)
        if port.kind == "is_init":
            values.append(torch.tensor([[True], [False], [False]]))
        elif port.dtype.is_floating_point:
            values.append(torch.rand(shape, generator=generator, dtype=port.dtype))
        else:
            values.append(torch.randint(2, shape, generator=generator).to(port.dtype))
    return values


@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2", "tokens", "several actions"])
@pytest.mark.parametrize("sample", [False, True], ids=["mode", "sample"])
def test_a_step_is_the_policys(family: str, sample: bool) -> None:
    model = several_actions() if family == "several actions" else make_model(family)
    agree(model, ActingStep(model, sample=sample), model.make_actor())


FEW: dict[str, Any] = {"horizon": 2, "iterations": 2, "num_samples": 12, "num_elites": 3}
PLANNERS: dict[str, tuple[str, Callable[[WorldModel], Planner]]] = {
    "TD-MPC2": ("tdmpc2", lambda model: tdmpc2.make_planner(model, **FEW, num_policy_trajectories=2)),
    "elites carried": ("tdmpc2", lambda model: ICEMPlanner(model, **FEW, keep_elites=2, carry_elites=2)),
    "a latent carried too": (
        "dreamerv3",
        lambda model: dreamerv3.make_planner(model, **FEW, num_policy_trajectories=2),
    ),
    "to a goal": ("jepa", lambda model: jepa.make_planner(model, **FEW)),
}


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("sample", [False, True], ids=["plan", "explore"])
def test_a_step_by_a_plan_is_the_planners(name: str, sample: bool) -> None:
    family, make = PLANNERS[name]
    model = make_model(family)
    planner = make(model)
    step = ActingStep(model, sample=sample, planner=planner)
    carried = {port.name for port in step.inputs if port.kind == "carried" and port.name.startswith("planner.")}
    assert carried == {".".join(key) for key in planner.carried_spec.keys(True, True)}
    agree(model, step, planner)


def agree(model: WorldModel, step: ActingStep, policy: TensorDictModuleBase) -> None:
    """What the step makes of tensors is what the policy makes of a tensordict that holds them."""
    given = dict(zip((port.name for port in step.inputs), given_to(step, 0), strict=True))
    with torch.no_grad():
        out = dict(zip((port.name for port in step.outputs), step(*given.values()), strict=True))

        row = model.initial_latent((BATCH,))
        rows = model.write_latent(model.observation_spec.zero((BATCH,)), row)
        for key in model.observation_keys:
            rows.set(key, given[key if isinstance(key, str) else ".".join(key)])
        if model.recurrent:
            for name in row:
                rows.set(model.key_map.leaf(name), given[f"latent.{name}"])
            previous = model.action_space.unflatten(given["previous_action"])
            for key, stored in zip(model.action_keys, model.previous_action_keys, strict=True):
                rows.set(stored, previous[key])
        planned = {name: tuple(name.split(".")) for name in given if name.startswith("planner.")}
        for name, key in planned.items():
            rows.set(key, given[name])
        if "is_init" in given:
            rows["is_init"] = given["is_init"]
        if model.recurrent:
            given["previous_action"].copy_(model.action_space.flatten(previous))
            out = dict(zip((port.name for port in step.outputs), step(*given.values()), strict=True))
        draws: dict[str, list[torch.Tensor]] = {}
        for name, value in given.items():
            if name.startswith("noise."):
                draws.setdefault(name.split(".")[1], []).append(value)
        assert bool(draws) == step.takes_draws
        model.noise = ReplayNoise(draws) if draws else ModeNoise()
        with set_exploration_type(ExplorationType.RANDOM if step.sample else ExplorationType.DETERMINISTIC):
            rows = policy(model.observe(rows))
        if draws:
            assert model.noise.unused() == {}
    for part in model.action_space.segments:
        told = out[part.key if isinstance(part.key, str) else ".".join(part.key)]
        expected = rows[part.key]
        if part.one_hot:
            expected = expected.int().argmax(-1)
        assert torch.equal(told, expected.reshape(told.shape))
    for port in step.outputs:
        assert out[port.name].shape == (BATCH, *port.shape)
        assert out[port.name].dtype == port.dtype
    if model.recurrent:
        for name in row:
            assert torch.equal(out[f"next.latent.{name}"], rows[model.key_map.leaf(name)])
        flat = model.action_space.flatten({key: rows[key] for key in model.action_keys})
        assert torch.equal(out["next.previous_action"], flat)
    for name, key in planned.items():
        assert torch.equal(out[f"next.{name}"], rows[key])


def test_an_embedding_that_is_kept_short_is_exported_and_its_weights_stay() -> None:
    """Learned task embeddings are rescaled in place where they are read, which no program may do to its weights."""
    observation = Composite(observation=Unbounded((4,)), task=Categorical(2, shape=(), dtype=torch.int64))
    model = TDMPC2(
        TDMPC2Config.from_size("tiny", action_dims=(2, 3)), observation, Composite(action=Bounded(-1, 1, shape=(3,)))
    )
    with torch.no_grad():
        model.task_embedding.weight.mul_(100.0)
    step = ActingStep(model).requires_grad_(False)
    before = model.task_embedding.weight.clone()
    batch = torch.export.Dim("batch", min=1)
    given = [torch.rand(2, 4), torch.tensor([0, 1])]
    with torch.no_grad():
        program = torch.export.export(
            step, tuple(given), dynamic_shapes={"tensors": ({0: batch}, {0: batch})}, strict=False
        ).module()
        assert torch.equal(model.task_embedding.weight, before)
        assert torch.allclose(program(*given)[0], step(*given)[0], atol=1e-6)
        many = [torch.rand(300, 4), torch.arange(300) % 2]
        assert torch.allclose(program(*many)[0], step(*many)[0], atol=1e-6)


def test_a_model_that_only_plans_is_refused() -> None:
    with pytest.raises(ValueError, match="JEPA acts by planning alone"):
        ActingStep(make_model("jepa"))
