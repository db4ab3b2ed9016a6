"""The observations and actions of an environment: what the simulator has, and what becomes of each in a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from gymnasium import spaces
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase

from worldloom_rl.envs.simulator_output import Simulator
from worldloom_rl.keys import as_tuple
from worldloom_rl.report.environment_report import Leaf
from worldloom_rl.specs.actions import ActionSegment, ActionSpace
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.specs.spaces import Space, shown, texts, without_texts
from worldloom_rl.torchrl_insides import wrapped


def _simulator_of(env: EnvBase) -> tuple[Simulator, bool]:
    """The simulator below what `make_env` converts, and whether rendered images take its observations' place."""
    steps = wrapped(env.base_env)
    return steps.env, steps.image is not None


def _branches(space: Space, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Space]]:
    if isinstance(space, spaces.Dict):
        for name, leaf in space.items():
            yield from _branches(leaf, (*path, name))
    else:
        yield path, space


def observed_spaces(env: EnvBase) -> dict[tuple[str, ...], Space]:
    """The simulator's space of each observation, by its key in the tensordict; empty if images are rendered."""
    simulator, rendered = _simulator_of(env)
    if rendered:
        return {}
    space = simulator.observation_space
    if isinstance(space, spaces.Dict):
        space = without_texts(space)
    found = {path or ("observation",): space for path, space in _branches(space)}
    if ("observation",) not in found and ("state",) in found:  # TorchRL renames it
        found["observation",] = found.pop(("state",))
    return found


def observation_leaves(env: EnvBase, observed: Mapping[tuple[str, ...], Space]) -> Iterator[Leaf]:
    """Every observation, those that a model never sees included.

    Args:
        observed: what `observed_spaces` gives.
    """
    for key, spec in specs_of(env)[0].items(include_nested=True, leaves_only=True):
        space = observed.get(as_tuple(key))
        given = "rendered image" if space is None else _space_text(space)
        yield Leaf(dotted(key), given, _seen_text(space, spec))
    simulator, rendered = _simulator_of(env)
    if rendered:
        for path, space in _branches(simulator.observation_space):
            yield Leaf(".".join(path) or "observation", _space_text(space), "ignored: --pixels observes images")
    else:
        for name in texts(simulator.observation_space):
            yield Leaf(name, "text", "left out: models read no texts")


def _seen_text(space: Space | None, spec: TensorSpec) -> str:
    text = f"{_dtype(spec.dtype)} {list(spec.shape)}"
    if isinstance(space, spaces.Discrete):
        return f"{text}, one-hot"
    if isinstance(space, spaces.MultiDiscrete):
        return f"{text}, one-hots side by side"
    if isinstance(space, spaces.Box) and len(space.shape) == 3 and tuple(spec.shape) != space.shape:
        return f"{text}, channels first"
    return text


def action_leaves(env: EnvBase) -> Iterator[Leaf]:
    """Every action. Raises ValueError for one that no model can take."""
    actions = ActionSpace(specs_of(env)[1])
    given = {path or ("action",): space for path, space in _branches(_simulator_of(env)[0].action_space)}
    for segment in actions.segments:
        bounds = actions.low[segment.start : segment.stop], actions.high[segment.start : segment.stop]
        space = given[as_tuple(segment.key)]
        yield Leaf(dotted(segment.key), _space_text(space), _action_text(segment, *bounds))


def _action_text(segment: ActionSegment, low: Tensor, high: Tensor) -> str:
    if segment.categories:
        return f"one of {' x '.join(map(str, segment.categories))} choices, one-hot"
    pairs = dict.fromkeys(zip(low.tolist(), high.tolist(), strict=True))
    bounds = ", ".join(f"{low:g} to {high:g}" for low, high in list(pairs)[:4]) + (", …" if len(pairs) > 4 else "")
    numbers = "1 real number" if len(low) == 1 else f"{len(low)} real numbers"
    return f"{numbers} in {bounds}; rescaled to [-1, 1] inside the model"


def _space_text(space: Space) -> str:
    return f"Box {space.dtype} {list(space.shape)}" if isinstance(space, spaces.Box) else shown(space)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dotted(key: NestedKey) -> str:
    """The key for a person, such as "inner.gear"."""
    return ".".join(as_tuple(key))


def is_real(space: Space | None) -> bool:
    """Whether its values are real numbers, not bytes or choices."""
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
