"""From environment to window: an observation arrives as it left, or is refused by its name."""

from __future__ import annotations

import re
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, InitTracker, SerialEnv, StepCounter, TransformedEnv

from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.envs import make_env
from worldloom_rl.keys import RESERVED
from worldloom_rl.specs.environment import specs_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # TorchRL 0.14.1 warns of its own classes at import
    from torchrl.collectors import Collector

_BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ARRIVE = (
    "stream", "index", "index_generation", "generation", "serial", "step_count", "at_random", "valid", "mask",
    "traj_ids", "observation", "goal", "state", "keys", "x",
)  # fmt: skip
REFUSED = (
    "action", "reward", "continue", "done", "terminated", "truncated", "is_init", "previous_action", "latent",
    "planner", "policy", "next", "collector", "replay", "lambda_return", "_reset", "shape", "device", "names",
)  # fmt: skip


class Named(gymnasium.Env[dict[str, Any], np.int64]):
    """Each leaf of its observation shows a count that never repeats, and the leaf's own number."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Dict, render_mode: str | None = None) -> None:
        self.observation_space = space
        self.count = 0

    def _see(self) -> dict[str, Any]:
        self.count += 1
        numbers = iter(range(100))

        def fill(space: spaces.Space[Any]) -> Any:
            if isinstance(space, spaces.Dict):
                return {name: fill(leaf) for name, leaf in space.items()}
            return np.array([self.count, next(numbers)], np.float32)

        return dict(fill(self.observation_space))

    def reset(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(**options)
        return self._see(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        return self._see(), 1.0, False, False, {}


def named(space: spaces.Dict, environments: int) -> EnvBase:
    gymnasium.registry.pop("Named-v0", None)
    gymnasium.register("Named-v0", entry_point=lambda **options: Named(space, **options), max_episode_steps=5)
    return make_env("Named-v0", num_envs=environments)


def check_arrival(env: EnvBase) -> list[tuple[str, ...]]:
    """The observations that reach a window, once the values were found to be those that the environment gave."""
    observation_spec, action_spec = specs_of(env)
    keys = [key if isinstance(key, tuple) else (key,) for key in observation_spec.keys(True, True)]
    arrivals = Arrivals(keys, list(action_spec.keys(True, True)))
    replay = Replay(capacity=200, window=2, batch_size=300, by="window")
    collector = Collector(env, None, frames_per_batch=8 * max(1, env.batch_size.numel()), total_frames=48)
    for transitions in collector:
        replay.extend(arrivals(transitions))
    collector.shutdown()
    batch = replay.sample()
    numbers = [batch[key][..., 1].unique().tolist() for key in keys]
    assert sorted(numbers) == [[number] for number in range(len(keys))]
    for key in keys:
        assert batch[key].shape == (300, 2, 2)
        assert batch[key].dtype == torch.float32
        assert (batch[key][:, 1, 0] - batch[key][:, 0, 0] == 1).all()
    return keys


def dictionaries(name: str) -> list[spaces.Dict]:
    """The name alone, beside another one, above others and below another one."""
    return [
        spaces.Dict({name: _BOX}),
        spaces.Dict({"a": _BOX, name: _BOX}),
        spaces.Dict({"a": _BOX, name: spaces.Dict({"b": _BOX, "c": _BOX})}),
    ]


@pytest.mark.parametrize("name", ARRIVE)
def test_an_observation_of_any_other_name_arrives_as_it_left(name: str) -> None:
    for place, space in enumerate(dictionaries(name)):
        keys = check_arrival(named(space, 1 + place % 2))
        renamed = "observation" if name == "state" else name  # by TorchRL, see make_env
        assert {key[0] for key in keys} == {renamed, *space.spaces} - ({name} - {renamed})


@pytest.mark.parametrize("name", REFUSED)
def test_an_observation_that_would_be_lost_is_refused_by_name(name: str) -> None:
    for space in dictionaries(name):
        with pytest.raises(ValueError, match=rf"Named-v0: the observation '{name}' has a name .* rename it"):
            named(space, 1)


@pytest.mark.parametrize("name", [*ARRIVE, *REFUSED])
def test_below_another_name_only_those_of_torchrl_are_refused(name: str) -> None:
    space = spaces.Dict({"a": spaces.Dict({name: _BOX, "b": _BOX}), "c": _BOX})
    if name in ("_reset", "shape", "device", "names", "state"):
        with pytest.raises(ValueError, match=rf"the observation 'a\.{name}' .* rename it"):
            named(space, 1)
    else:
        assert ("a", name) in check_arrival(named(space, 1))


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_arrivals_refuse_a_name_of_the_key_contract(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"[{(name, 'x')!r}] have names of the key contract")):
        Arrivals(["observation", (name, "x")])


class Bare(EnvBase):
    """A TorchRL environment with one observation of the given name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.count = name, 0
        self.observation_spec = Composite({name: Unbounded((2,))})
        self.action_spec = Categorical(3)
        self.reward_spec = Unbounded((1,))
        self.done_spec = Composite(done=Binary(1, dtype=torch.bool), terminated=Binary(1, dtype=torch.bool))

    def _see(self) -> dict[str, Any]:
        self.count += 1
        return {self.name: torch.tensor([float(self.count), 0.0]), "done": [False], "terminated": [False]}

    def _reset(self, tensordict: Any = None, **options: Any) -> Any:
        return self.observation_spec.zero().update(self._see())

    def _step(self, tensordict: Any) -> Any:
        return self.observation_spec.zero().update({**self._see(), "reward": torch.ones(1)})

    def _set_seed(self, seed: int | None) -> None:
        pass


def test_an_own_step_count_is_kept_and_that_of_a_transform_is_not() -> None:
    assert check_arrival(TransformedEnv(Bare("step_count"), InitTracker())) == [("step_count",)]
    assert check_arrival(TransformedEnv(SerialEnv(2, lambda: Bare("step_count")), InitTracker())) == [("step_count",)]
    counted = SerialEnv(2, lambda: TransformedEnv(Bare("x"), StepCounter()))
    assert check_arrival(TransformedEnv(counted, InitTracker())) == [("x",)]
    aged = TransformedEnv(Bare("x"), StepCounter(step_count_key="age"))
    assert list(specs_of(aged)[0].keys()) == ["x"]


@pytest.mark.parametrize("name", ["planner", "latent", "previous_action", "policy", "is_init", "collector"])
def test_specs_of_an_environment_whose_own_observation_has_a_reserved_name_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"\['{name}'\] have names of the key contract"):
        specs_of(Bare(name))
