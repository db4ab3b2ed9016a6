"""An environment that says which actions it allows is given no other, whoever acts in it."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torchrl.envs import EnvBase

from worldloom_rl.envs import make_env
from worldloom_rl.envs.action_mask import allowed_action, read_mask
from worldloom_rl.envs.snapshot import environment_state, restore_environment

FOUR, PARTS = spaces.Discrete(4, start=-1), spaces.MultiDiscrete([2, 3])
SEEN = spaces.Box(-1.0, 1.0, (2,), np.float32)
MASKS = {  # at even and odd steps
    "choice": (FOUR, [np.array([1, 0, 0, 1], np.int8), np.array([0, 1, 0, 0], np.int8)]),
    "parts side by side": (PARTS, [np.array([1, 0, 0, 1, 1]), np.array([0, 1, 1, 0, 0])]),
    "parts apart": (PARTS, [([1, 0], [0, 1, 1]), ([0, 1], [1, 0, 0])]),
    "names": (
        spaces.Dict({"turn": FOUR, "speed": spaces.Box(-1.0, 1.0, (1,), np.float32)}),
        [{"turn": [True, False, False, True]}, {"turn": [False, True, False, False], "speed": None}],
    ),
}


class Strict(gymnasium.Env[Any, Any]):
    """Keeps what is played, and raises for an action that its mask forbids."""

    def __init__(self, kind: str = "choice", where: str = "info") -> None:
        self.action_space, self.masks = MASKS[kind]
        self.where, self.played, self.steps = where, list[Any](), 0
        seen = {"observation": SEEN, "action_mask": spaces.Box(0, 1, (4,), np.int8)}
        self.observation_space = {
            "info": SEEN, "root": spaces.Dict(seen), "inside": spaces.Dict({"player": spaces.Dict(seen)}),
        }[where]  # fmt: skip

    def _given(self) -> tuple[Any, dict[str, Any]]:
        mask, seen = self.masks[self.steps % 2], np.full(2, self.steps / 20, np.float32)
        if self.where == "info":
            return seen, {"action_mask": mask}
        beside = {"observation": seen, "action_mask": mask}
        return beside if self.where == "root" else {"player": beside}, {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._given()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        flat = spaces.flatten(self.action_space, action)
        parts = self.masks[self.steps % 2]
        parts = [parts["turn"]] if isinstance(parts, dict) else list(parts) if isinstance(parts, tuple) else [parts]
        mask = np.concatenate([np.asarray(part) for part in parts])
        one_hot = flat[-len(mask) :]  # of a Dict the real numbers stand before, by their name
        if (one_hot > mask).any():
            raise RuntimeError(f"illegal action {action}")
        self.played.append(action)
        self.steps += 1
        observation, info = self._given()
        return observation, 1.0, False, False, info


def strict(action_repeat: int = 1, **kwargs: Any) -> EnvBase:
    gymnasium.registry.pop("Strict-v0", None)
    gymnasium.register("Strict-v0", Strict, max_episode_steps=20, kwargs=kwargs)
    return make_env("Strict-v0", action_repeat=action_repeat, seed=0)


@pytest.mark.parametrize("where", ["info", "root", "inside"])
@pytest.mark.parametrize("action_repeat", [1, 3])
def test_no_forbidden_action_reaches_the_environment(where: str, action_repeat: int) -> None:
    torch.manual_seed(0)
    env = strict(action_repeat, where=where)
    env.rollout(30, break_when_any_done=False)  # would raise
    steps = env.base_env._env
    assert set(steps.unwrapped.played) == {-1, 2, 0}  # counted from -1
    assert 0 < steps.forbidden < 30 * action_repeat


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_has_the_form_of_the_actions(kind: str) -> None:
    torch.manual_seed(0)
    strict(kind=kind).rollout(20)


def test_the_next_allowed_action_is_played_counted_around() -> None:
    mask = read_mask("Mine-v0", spaces.Discrete(5), None, {"action_mask": [0, 1, 0, 1, 0]})
    assert mask is not None
    played = [int(allowed_action("Mine-v0", spaces.Discrete(5), np.int64(action), mask)) for action in range(5)]
    assert played == [1, 1, 3, 3, 1]
    both = read_mask("Mine-v0", PARTS, {"action_mask": np.array([0, 1, 1, 0, 0])}, {})
    assert both is not None
    assert allowed_action("Mine-v0", PARTS, np.array([0, 2]), both).tolist() == [1, 0]
    kept = np.array([1, 0])
    assert allowed_action("Mine-v0", PARTS, kept, both) is kept


@pytest.mark.parametrize(
    ("space", "mask"),
    [
        (spaces.Discrete(3), np.ones(4)),
        (spaces.Discrete(2), np.array([0.5, 1.0])),
        (spaces.Discrete(2), "10"),
        (spaces.Box(-1.0, 1.0, (2,), np.float32), np.ones(2)),
        (PARTS, np.ones((2, 3))),
        (PARTS, ([1, 1], [[1], [1, 1]])),
        (spaces.Dict({"turn": FOUR}), np.ones(4)),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(space: Any, mask: Any) -> None:
    with pytest.raises(ValueError, match=r"Mine-v0: its action mask is .*or give what stands under 'action_mask'"):
        read_mask("Mine-v0", space, None, {"action_mask": mask})


def test_a_mask_that_allows_nothing_matters_only_where_the_episode_goes_on() -> None:
    mask = read_mask("Mine-v0", FOUR, None, {"action_mask": np.zeros(4)})
    assert mask is not None
    with pytest.raises(ValueError, match="Mine-v0: its action mask allows no action, and the episode goes on"):
        allowed_action("Mine-v0", FOUR, np.int64(1), mask)


def test_a_mask_goes_on_with_a_run_in_the_middle_of_its_episode() -> None:
    one, other = strict(), strict()
    one.rollout(3)
    other.rollout(2)
    restore_environment(other, json.loads(json.dumps(environment_state(one))))
    assert other.base_env._env.mask.tolist() == [False, True, False, False]
