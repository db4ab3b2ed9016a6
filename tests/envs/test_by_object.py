"""Environments that make_env is given as objects, functions, classes of modules, and with arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from torchrl.envs import GymEnv

from worldloom_rl.envs import episode_length, make_env
from worldloom_rl.envs.real import simulators

MODULE = """
from gymnasium.envs.classic_control import PendulumEnv
class Heavy(PendulumEnv):
    def __init__(self, mass, render_mode=None, **options):
        super().__init__(render_mode=render_mode, **options)
        self.m = mass
        if mass < 0:
            [].append(1, 2)
def light(): return Heavy(0.1)
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "heavy_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("heavy_module", None)


def test_an_environment_and_a_function_give_what_the_name_gives() -> None:
    by_name = make_env("Pendulum-v1", seed=3).reset()["observation"]
    for given in (gymnasium.make("Pendulum-v1"), lambda: gymnasium.make("Pendulum-v1")):
        env = make_env(given, seed=3)
        assert env.reset()["observation"].tolist() == by_name.tolist()
        assert episode_length(env) == 200
        assert env.base_env._env.name in ("Pendulum-v1", "<lambda>")


def test_a_function_is_called_for_each_of_several_environments() -> None:
    env = make_env(lambda: gymnasium.make("Pendulum-v1"), num_envs=2, seed=0)
    first, second = env.reset()["observation"]
    assert first.tolist() != second.tolist()
    with pytest.raises(ValueError, match="num_envs=2 needs as many environments, got one: give a function"):
        make_env(gymnasium.make("Pendulum-v1"), num_envs=2)


def test_a_time_limit_is_the_wrapper_s_or_the_argument() -> None:
    bare = gymnasium.make("Pendulum-v1").unwrapped
    with pytest.raises(ValueError, match=r"Pendulum-v1 has no time limit.*time_limit=1000.*TimeLimit"):
        make_env(bare)
    assert len(make_env(bare, time_limit=7).rollout(100)) == 7
    assert len(make_env(gymnasium.make("Pendulum-v1"), time_limit=7).rollout(100)) == 7
    with pytest.raises(ValueError, match="ends its episodes after 200 steps already; time_limit=300"):
        make_env(gymnasium.make("Pendulum-v1"), time_limit=300)


def test_pixels_of_an_object_need_its_render_mode() -> None:
    pixels = make_env(gymnasium.make("Pendulum-v1", render_mode="rgb_array"), pixels=True).reset()["pixels"]
    assert pixels.shape == (3, 64, 64)
    with pytest.raises(ValueError, match='Pendulum-v1 has render_mode=None: for pixels, make it with "rgb_array"'):
        make_env(gymnasium.make("Pendulum-v1"), pixels=True)


def test_anything_else_is_told_what_make_env_takes() -> None:
    for thing in (3, None, GymEnv("Pendulum-v1"), gymnasium.make_vec("Pendulum-v1", 2)):
        with pytest.raises(TypeError, match="make_env takes the name of an environment, an environment of gymnasium"):
            make_env(thing)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"<lambda> made a dict; .* one environment"):
        make_env(lambda: {})  # type: ignore[arg-type, return-value]


@pytest.mark.usefixtures("module")
def test_a_class_or_a_function_of_a_module_needs_no_registration() -> None:
    env = make_env("heavy_module:Heavy", time_limit=9, env_kwargs={"mass": 7.5, "g": 3})
    assert (env.base_env._env.unwrapped.m, env.base_env._env.unwrapped.g) == (7.5, 3)
    assert len(env.rollout(100)) == 9
    assert make_env("heavy_module:light", time_limit=9).base_env._env.unwrapped.m == 0.1
    with pytest.raises(ValueError, match=r"missing 1 required positional argument: 'mass'.*--env-kwargs name=value"):
        make_env("heavy_module:Heavy", time_limit=9)
    with pytest.raises(TypeError, match="takes exactly one argument"):  # of its own constructor
        make_env("heavy_module:Heavy", time_limit=9, env_kwargs={"mass": -1})
    for name in ("number", "nothing"):
        with pytest.raises(ValueError, match=f"gymnasium knows no 'heavy_module:{name}'"):
            make_env(f"heavy_module:{name}", time_limit=9)


def test_arguments_reach_the_constructor_of_a_registered_environment() -> None:
    for number in (1, 2):
        env = make_env("Pendulum-v1", num_envs=number, env_kwargs={"g": 2.5})
        env.reset()
        assert [each.unwrapped.g for each in simulators(env)] == [2.5] * number
    with pytest.raises(ValueError, match=r"unexpected keyword argument 'mass'.*--env-kwargs"):
        make_env("Pendulum-v1", env_kwargs={"mass": 1})
    with pytest.raises(ValueError, match=r"env_kwargs=\{'g': 1\} belong to a name"):
        make_env(gymnasium.make("Pendulum-v1"), env_kwargs={"g": 1})
    with pytest.raises(ValueError, match=r"ale:Pong takes no arguments, got \['mode'\]"):
        make_env("ale:Pong", env_kwargs={"mode": 1})
