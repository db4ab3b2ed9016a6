"""Random actions in an environment, and what in them may keep a model from learning."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from worldloom_rl.keys import DONE, REWARD, TERMINATED
from worldloom_rl.report.environment_leaves import dotted
from worldloom_rl.report.environment_report import Play, Problem

_EPISODES = 5  # of random actions, if they end within the limits below
_FEWEST_STEPS, _MOST_STEPS, _MOST_SECONDS = 200, 1000, 10.0
_LARGEST_RATIO = 20.0  # of standard deviations among observed dimensions


def play_randomly(env: EnvBase) -> tuple[TensorDictBase, float]:
    """[T] transitions of random actions, across episodes, and the seconds they took."""
    begin = time.perf_counter()
    td, episodes = env.reset(), 0
    steps: list[TensorDictBase] = []
    while len(steps) < _MOST_STEPS and time.perf_counter() - begin < _MOST_SECONDS:
        if episodes >= _EPISODES and len(steps) >= _FEWEST_STEPS:
            break
        step, td = env.step_and_maybe_reset(env.rand_action(td))
        steps.append(step)
        episodes += int(step["next", DONE])
    return torch.stack(steps), time.perf_counter() - begin


def summary(transitions: TensorDictBase, seconds: float) -> Play:
    """Lengths, ends and pace of transitions [T] that began with an episode."""
    ends = transitions["next", DONE].flatten().nonzero().flatten()
    lengths = torch.diff(ends, prepend=ends.new_tensor([-1]))
    terminations = int(transitions["next", TERMINATED].sum())
    return Play(len(transitions), tuple(lengths.tolist()), terminations, seconds)


def find_problems(
    transitions: TensorDictBase, play: Play, keys: Sequence[NestedKey], real: Sequence[NestedKey]
) -> Iterator[Problem]:
    """What training may suffer from in transitions [T] of random actions.

    Args:
        keys: of what models observe.
        real: those of them whose values are real numbers, which may differ in scale.
    """
    yield from _constant_observations(transitions, keys)
    yield from _scales(transitions, real)
    yield from _constant_rewards(transitions, play)


def _values(transitions: TensorDictBase, key: NestedKey) -> Tensor:
    """[T, n] what was observed on arriving."""
    values: Tensor = transitions["next"][key].float()
    return values.flatten(1)


def _entry(transitions: TensorDictBase, key: NestedKey, place: int) -> str:
    shape = transitions["next"][key].shape[1:]
    return f"{dotted(key)}{[int(index) for index in np.unravel_index(place, shape)]}"


def _constant_observations(transitions: TensorDictBase, keys: Sequence[NestedKey]) -> Iterator[Problem]:
    constant = {key: (_values(transitions, key) == _values(transitions, key)[:1]).all(0) for key in keys}
    steps = f"in {len(transitions)} steps of random actions"
    for key, still in constant.items():
        if still.all():
            yield Problem(
                f"The observation {dotted(key)} is constant: it never changed {steps}.",
                "A model cannot tell one state from another by it. Check that the environment updates it, or leave it "
                "out (gymnasium.wrappers.FilterObservation).",
            )
        elif still.any() and transitions["next"][key].dim() == 2:
            names = [_entry(transitions, key, int(place)) for place in still.nonzero()[:4]]
            yield Problem(
                f"{int(still.sum())} of {len(still)} numbers of {dotted(key)} are constant {steps}: "
                f"{', '.join(names)}{', …' if still.sum() > 4 else ''}.",
                "Harmless if random actions just do not reach what changes them.",
            )


def _scales(transitions: TensorDictBase, real: Sequence[NestedKey]) -> Iterator[Problem]:
    spread = {
        _entry(transitions, key, place): value
        for key in real
        for place, value in enumerate(_values(transitions, key).std(0, correction=0).tolist())
        if math.isfinite(value) and value > 0
    }
    if not spread:
        return
    small, large = min(spread, key=lambda entry: spread[entry]), max(spread, key=lambda entry: spread[entry])
    if spread[large] > _LARGEST_RATIO * spread[small]:
        yield Problem(
            f"Observations have very different scales: the standard deviation of {large} is {spread[large]:.3g}, that "
            f"of {small} is {spread[small]:.3g} ({spread[large] / spread[small]:.0f} times smaller).",
            "Bring them to one scale (gymnasium.wrappers.TransformObservation). TD-MPC2's encoder normalises the "
            "output of its first layer, where small numbers vanish beside large ones; DreamerV3 sees symlog values.",
        )


def _constant_rewards(transitions: TensorDictBase, play: Play) -> Iterator[Problem]:
    rewards = transitions["next", REWARD].flatten()
    if bool((rewards == rewards[0]).all()) and not play.terminations:
        yield Problem(
            f"Rewards never changed: {rewards[0].item():g} at each of {play.steps} random steps.",
            "There is nothing to learn from such rewards. If they are rare, give rewards on the way, or make sure that "
            "exploration finds them.",
        )
