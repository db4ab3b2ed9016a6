"""Environments of several tasks in one form, and the sets of tasks that they make."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldloom_rl.envs import episode_length, make_env
from worldloom_rl.envs.real import simulators
from worldloom_rl.envs.tasks import describe_tasks, make_task_env
from worldloom_rl.tasks import LISTS, TaskSet, environment_name, named_tasks, published_task

NAMES = ["Pendulum-v1", "MountainCarContinuous-v0"]
LIMIT = 6


class Lever(gymnasium.Env[np.ndarray, np.ndarray]):
    """Rewards what it was given."""

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = spaces.Box(np.array([0.0, -3.0], np.float32), np.array([10.0, 1.0], np.float32))

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        super().reset(seed=seed)
        return np.ones(4, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        assert action.shape == (2,)
        return np.ones(4, np.float32), float(action[0] * 100 + action[1]), False, False, {}


class Seeing(Lever):
    """Observes an image."""

    observation_space = spaces.Box(0, 255, (3, 8, 8), np.uint8)


for made in (Lever, Seeing):
    gymnasium.register(f"worldloom-tests/{made.__name__}-v0", made, max_episode_steps=LIMIT)
LEVER = "worldloom-tests/Lever-v0"


def test_widths_and_lengths_are_those_of_the_environments() -> None:
    tasks, without, action_specs = describe_tasks([*NAMES, LEVER, "cup-spin"])
    assert tasks.observation_widths == (3, 2, 4, 8)
    assert tasks.action_widths == (1, 1, 2, 2)
    assert tasks.episode_lengths == (200, 999, LIMIT, 500)
    assert without == ("cup-spin",)  # of the published lists, but in no package
    assert action_specs[LEVER]["action"].space.low.tolist() == [0.0, -3.0]


def test_observations_are_padded_and_say_their_task() -> None:
    tasks = describe_tasks([*NAMES, LEVER], time_limit=LIMIT).tasks
    env = make_task_env(tasks, num_envs=2, time_limit=LIMIT, seed=0)
    played = env.rollout(3, break_when_any_done=False)
    assert played["task"].dtype == torch.int64
    assert played["next", "task"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert (played["observation"][:2, :, :3] != 0).all()
    assert (played["observation"][:2, :, 3:] == 0).all()
    assert (played["observation"][2:4, :, 2:] == 0).all()
    assert (played["observation"][4:] == 1).all()
    assert not torch.equal(played["observation"][0], played["observation"][1])
    assert episode_length(env) == LIMIT
    env.close()


def test_actions_are_cut_and_brought_to_the_task_s_own_bounds() -> None:
    tasks = TaskSet((LEVER, "wide"), (4, 4), (2, 5), (LIMIT, LIMIT))
    env = make_task_env(tasks, [LEVER], seed=0)
    td = env.reset()
    td["action"] = torch.tensor([-1.0, 1.0, 0.3, 0.3, 0.3])
    assert env.step(td)["next", "reward"].item() == 1.0
    td["action"] = torch.tensor([0.0, 0.0, 0.3, 0.3, 0.3])
    assert env.step(td)["next", "reward"].item() == 499.0
    env.close()


def test_a_task_is_the_environment_of_its_name_bit_for_bit() -> None:
    """MountainCarContinuous takes actions in [-1, 1], so that they pass as they are."""
    tasks = describe_tasks(NAMES, time_limit=LIMIT).tasks
    alone = make_env(NAMES[1], time_limit=LIMIT, seed=3)
    among = make_task_env(tasks, [NAMES[1]], time_limit=LIMIT, seed=3)
    (left,), (right,) = simulators(alone), simulators(among)
    assert np.array_equal(left.reset()[0]["observation"], right.reset()[0]["observation"][:2])
    for value in np.linspace(-1, 1, LIMIT, dtype=np.float32):
        ours, theirs = right.step(np.array([value], np.float32)), left.step(np.array([value], np.float32))
        assert np.array_equal(ours[0]["observation"][:2], theirs[0]["observation"])
        assert ours[1:4] == theirs[1:4]
    alone.close()
    among.close()


def test_a_task_that_observes_no_vector_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"worldloom-tests/Seeing-v0 observes .* one vector .*FlattenObservation"):
        describe_tasks([LEVER, "worldloom-tests/Seeing-v0"])


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="gymnasium knows no 'Pendulum-v9'"):
        describe_tasks(["Pendulum-v9"])


def test_the_published_lists() -> None:
    assert [len(LISTS[name]) for name in ("mt30", "mt80")] == [30, 80]
    assert LISTS["mt80"][:30] == LISTS["mt30"]
    assert LISTS["mt30"].index("cup-catch") == 12
    assert LISTS["mt80"][30] == "mw-assembly"
    assert LISTS["mt80"][79] == "mw-hand-insert"
    assert named_tasks(["mt30", LEVER])[-2:] == ("pendulum-spin", LEVER)
    assert environment_name("walker-walk") == "dmc:walker-walk"
    assert environment_name("mw-reach") == "mw-reach"
    reach, walk = published_task("mw-reach"), published_task("walker-walk")
    assert reach is not None
    assert walk is not None
    assert (reach.observation_width, reach.action_width, reach.episode_lengths) == (39, 4, (100,))
    assert (walk.observation_width, walk.action_width, walk.episode_lengths) == (24, 6, (500,))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (((), (), (), ()), "none was named"),
        ((("a", "a"), (1, 1), (1, 1), (1, 1)), "named more than once"),
        ((("a", "b"), (1,), (1, 1), (1, 1)), "observation_widths must be a number above 0 for each"),
        ((("a",), (1,), (0,), (1,)), "action_widths must be a number above 0 for each"),
    ],
)
def test_a_set_of_tasks_that_does_not_fit_together_is_refused(
    columns: tuple[tuple[str, ...], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TaskSet(*columns)  # type: ignore[arg-type]


def test_a_task_is_found_by_what_stands_behind_its_colon() -> None:
    tasks = TaskSet(("dmc:walker-walk", "module:Id"), (1, 1), (1, 1), (1, 1))
    assert [tasks.number(name) for name in ("walker-walk", "Id", "dmc:walker-walk")] == [0, 1, 0]
    with pytest.raises(ValueError, match=r"'walker-run' is none of the tasks\. Did you mean 'dmc:walker-walk'"):
        tasks.number("walker-run")
