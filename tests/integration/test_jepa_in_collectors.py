"""A JEPA plans in stock collectors, with our planners and with TorchRL's own over `ImaginationEnv`."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.modules import CEMPlanner as TorchRLCEMPlanner

from worldloom_rl import ImaginationEnv, MPPIPlanner
from worldloom_rl.envs import make_env
from worldloom_rl.envs.point_room import EPISODE_STEPS
from worldloom_rl.functional.goal_reward import GoalReward
from worldloom_rl.keys import PLANNER_LEFT, PLANNER_SEQUENCE
from worldloom_rl.models.jepa import JEPA, make_policy
from worldloom_rl.models.jepa.config import PRESETS
from worldloom_rl.specs.environment import specs_of

BUDGET = {"iterations": 2, "num_samples": 8, "num_elites": 2, "horizon": 3}
ENV = "worldloom/PointRoom-v0"


def room(num_envs: int = 2):
    return make_env(ENV, num_envs=num_envs, seed=0)


def jepa() -> JEPA:
    torch.manual_seed(0)
    model = JEPA(PRESETS["tiny"], *specs_of(room()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model  # in training mode, on purpose: acting does not mind


def collect(policy: TensorDictModuleBase, steps: int) -> TensorDictBase:
    torch.manual_seed(0)
    collector = Collector(
        room(), policy, frames_per_batch=2 * steps, total_frames=2 * steps, auto_register_policy_transforms=True
    )
    rows = next(iter(collector))
    collector.shutdown()
    return rows


@pytest.fixture(scope="module")
def model() -> JEPA:
    return jepa()


@pytest.mark.parametrize("settings", [{}, {"planner": MPPIPlanner}], ids=["cem", "mppi"])
def test_a_goal_is_held_through_its_episode_and_windows_grow_and_slide(model: JEPA, settings) -> None:
    rows = collect(make_policy(model, **settings, **BUDGET), EPISODE_STEPS + 4)
    assert (rows["action"].abs() <= 1).all()
    starts = [0, EPISODE_STEPS]
    assert rows["is_init"][0, :, 0].nonzero().flatten().tolist() == starts
    with torch.no_grad():
        encoded = model.encode(rows.select(*model.observation_keys).clone())["latent"]
    for step in range(EPISODE_STEPS + 4):
        start = starts[step >= EPISODE_STEPS]
        torch.testing.assert_close(rows["latent", "goal"][:, step], encoded["goal"][:, start], rtol=1e-5, atol=1e-5)
        count = min(step - start + 1, model.config.history)
        assert (rows["latent", "length"][:, step] == count).all()
        window = rows["latent", "window"][:, step]
        seen = encoded["tokens"][:, step - count + 1 : step + 1]
        torch.testing.assert_close(window[:, :count], seen, rtol=1e-5, atol=1e-5)
        left = rows["latent", "action_window"][:, step, : count - 1]
        assert torch.equal(left, rows["action"][:, step - count + 1 : step])


def test_a_whole_plan_is_executed_before_the_next(model: JEPA) -> None:
    rows = collect(make_policy(model, execute=3, **BUDGET), 8)
    assert rows[PLANNER_LEFT][0, :, 0].tolist() == [2, 1, 0, 2, 1, 0, 2, 1]
    for begin in (0, 3):
        plan = rows[PLANNER_SEQUENCE][:, begin]
        assert torch.equal(rows["action"][:, begin : begin + 3], plan)
    assert not torch.equal(rows[PLANNER_SEQUENCE][:, 0], rows[PLANNER_SEQUENCE][:, 3])


class _TorchRLPlan(TensorDictModuleBase):
    """TorchRL's planner on the latent alone: it would repeat every entry, images too, for every candidate."""

    def __init__(self, model: JEPA, reward: GoalReward) -> None:
        super().__init__()
        self.model = model
        self.planner = TorchRLCEMPlanner(
            ImaginationEnv(model, reward=reward), planning_horizon=3, optim_steps=2, num_candidates=32, top_k=4
        )
        self.in_keys, self.out_keys = list(model.latent_keys), ["action"]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        planned = self.planner(tensordict.select(*self.model.latent_keys))
        return tensordict.set("action", planned["action"])


@pytest.mark.parametrize("terminal", [False, True], ids=["dense", "terminal"])
def test_torchrl_s_cem_planner_is_a_drop_in_over_imagination(model: JEPA, terminal: bool) -> None:
    reward = GoalReward(model.distance, terminal)
    plan = _TorchRLPlan(model, reward)
    rows = collect(TensorDictSequential(model.observe, plan, model.carry_action), 4)
    assert rows["action"].shape == (2, 4, 2)
    # Its first imagined step comes nearer to the goal than the middle of random ones.
    plan.planner.planning_horizon = 1
    start = rows.select(*model.latent_keys)[:, 0].clone()
    torch.manual_seed(0)
    planned = plan(start.clone())["action"]
    generator = torch.Generator().manual_seed(0)
    actions = torch.cat([planned.unsqueeze(1), torch.rand(2, 64, 2, generator=generator) * 2 - 1], 1)
    many = start.unsqueeze(1).expand(2, 65).clone().set("action", actions)
    with torch.no_grad():
        latent = model.read_latent(many)
        gained = reward(latent, model.read_latent(model.predict(many))).squeeze(-1)
    assert (gained[:, 0] > gained[:, 1:].quantile(0.9, 1)).all()


def test_an_environment_without_a_goal_is_told_what_is_missing(model: JEPA) -> None:
    td = TensorDict({"pixels": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}, batch_size=[2])
    with pytest.raises(KeyError, match=r"JEPA needs the key \('goal', 'pixels'\)"):
        model.encode(td)
