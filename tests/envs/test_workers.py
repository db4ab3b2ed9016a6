"""Environments in processes: values, errors and ends as if they were in this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torchrl.envs import EnvBase

from worldloom_rl.envs import make_env
from worldloom_rl.envs.real import of_each
from worldloom_rl.envs.simulator_output import Simulator
from worldloom_rl.envs.tasks import describe_tasks, make_task_env

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("fork_server")]


class Twisted(Exception):
    """Cannot be unpickled: its constructor takes two arguments."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what} is {how}")


class Machine(gymnasium.Env[Any, Any]):
    """Does what the action says: raises, dies, or nothing."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(0, 9, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        match int(action[0]):
            case 1:
                raise ZeroDivisionError("the motor is stuck")
            case 2:
                raise Twisted("the arm", "bent")
            case 3:
                os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(1, np.float32), 1.0, False, False, {"success": True}


@pytest.fixture
def machines() -> Iterator[EnvBase]:
    gymnasium.register("Machine-v0", Machine, max_episode_steps=3)  # which the processes learn from this one
    env = make_env("Machine-v0", num_envs=2, parallel=True, seed=0)
    yield env
    env.close()
    gymnasium.registry.pop("Machine-v0")


def do(env: EnvBase, *actions: int) -> None:
    td = env.reset()
    td["action"] = torch.tensor(actions, dtype=torch.float32)[:, None]
    env.step(td)


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        (1, ZeroDivisionError, "the motor is stuck"),
        (2, RuntimeError, "Twisted: the arm is bent"),
        (3, RuntimeError, r"environment 1 of 2 \(exit code -9\) ended and said nothing"),
    ],
)
def test_what_an_environment_raises_arrives_as_its_own(
    action: int, kind: type[Exception], message: str, machines: EnvBase
) -> None:
    with pytest.raises(kind, match=message) as caught:
        do(machines, 0, action)
    assert action != 1 or "in step" in str(caught.value.__cause__)  # where it was raised
    assert not multiprocessing.active_children()


def test_stop_signals_are_the_parents(machines: EnvBase) -> None:
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGINT)
        os.kill(process.pid or 0, signal.SIGTERM)
    do(machines, 0, 0)
    assert list(of_each(machines, _success)) == [True, True]


def _success(simulator: Simulator) -> object:
    return getattr(simulator, "succeeded", None)


def _hold(told: Connection) -> None:
    env = make_env("Pendulum-v1", num_envs=2, parallel=True, seed=0)
    told.send([process.pid for process in multiprocessing.active_children()])
    time.sleep(600)
    env.close()


def test_processes_end_with_their_parent_however_it_ends() -> None:
    asked, told = multiprocessing.Pipe()
    parent = multiprocessing.Process(target=_hold, args=(told,))
    parent.start()
    numbers = asked.recv()
    assert len(numbers) == 2
    parent.kill()
    parent.join()
    until = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{number}") for number in numbers):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_tasks_in_processes_give_what_serial_ones_give() -> None:
    tasks = describe_tasks(["Pendulum-v1", "MountainCarContinuous-v0"]).tasks
    rollouts = []
    for parallel in (False, True):
        torch.manual_seed(1)
        env = make_task_env(tasks, num_envs=1, seed=4, parallel=parallel)
        drawn = torch.get_rng_state()
        torch.manual_seed(0)
        rollouts.append((env.rollout(6, break_when_any_done=False), drawn))
        env.close()
    (serial, drawn), (found, left) = rollouts
    assert torch.equal(drawn, left)
    assert all(torch.equal(found[key], serial[key]) for key in serial.keys(True, True))
