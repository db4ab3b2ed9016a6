"""Any space → its observations → arrivals → replay → what every family reads: as they left, or refused by name."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from family_work import FAMILIES
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tensordict import TensorDictBase

from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.envs import make_env
from worldloom_rl.keys import GOAL, INDEX, IS_INIT, RESERVED, as_tuple, previous_action_keys
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.specs.environment import specs_of

STEPS, LIMIT = 7, 3  # of a rollout, and of each episode in it
SMALL: dict[str, dict[str, Any]] = {
    "dreamerv3": {"deterministic": 8, "hidden": 8, "groups": 2, "classes": 4, "blocks": 2, "units": 8, "num_bins": 21},
    "tdmpc2": {"encoder_dim": 8, "mlp_dim": 8},
}
found: Counter[str] = Counter()

# ---------------------------------------------------------------------- spaces


def bounded(low: float, high: float, shape: tuple[int, ...], dtype: Any) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


SHAPES = st.sampled_from([(), (1,), (3,), (7,), (2, 3), (1, 1), (0,), (2, 0), (2, 2, 2, 2)])
IMAGES = st.sampled_from(
    [
        (16, 16, 3), (3, 16, 16), (16, 32, 1), (64, 64, 3), (9, 64, 64), (64, 64, 12), (4, 84, 84), (56, 56, 3),
        (7, 7, 3), (3, 3, 2), (2, 16, 16, 3), (4, 3, 16, 16), (16, 16, 16), (6, 5, 2), (8, 8, 20), (3, 4, 3), (1, 1, 2),
        (16, 16, 0), (2, 5, 4, 3), (3, 64, 64), (1, 8, 1), (64, 64, 4),
    ]
)  # fmt: skip
NAMES = st.sampled_from(
    ["a", "b", "observation", "state", "pixels", "goal", "a.b", " ", "ü", "keys", "items", "forward", "0", "_x", "task"]
)
OTHER_NAMES = st.sampled_from(["reward", "action", "next", "shape", "latent", "_reset", "is_init"])
DTYPES = st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.int8, np.int32, np.int64, np.bool_])


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = draw(DTYPES)
    if draw(st.booleans()):
        return spaces.Box(0, 255, draw(IMAGES), np.uint8)
    shape = draw(st.one_of(SHAPES, IMAGES))
    kind = np.dtype(dtype).kind
    if kind == "b":
        return spaces.Box(0, 1, shape, dtype)
    if kind == "u":
        return spaces.Box(0, draw(st.sampled_from([1, 255])), shape, dtype)
    if kind == "i":
        return spaces.Box(*draw(st.sampled_from([(-3, 5), (0, 1), (0, 100)])), shape, dtype)
    lows = [(-np.inf, np.inf), (0.0, np.inf), (-np.inf, 1.0), (-2.5, 0.1), (0.0, 1.0), (0.0, 255.0)]
    return spaces.Box(*draw(st.sampled_from(lows)), shape, dtype)


STARTS = st.integers(-3, 3)
CHOICES = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 6), STARTS),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).flatmap(
        lambda counts: STARTS.map(lambda start: spaces.MultiDiscrete(counts, start=[start] * len(counts)))
    ),
)
LEAVES = st.one_of(
    boxes(),
    CHOICES,
    st.sampled_from([spaces.MultiBinary(3), spaces.MultiBinary((2, 2)), spaces.MultiDiscrete([[2, 3], [1, 2]])]),
)
ODD = st.sampled_from(
    [
        spaces.Text(3), spaces.Sequence(spaces.Discrete(2)), spaces.Tuple([spaces.Discrete(2)]), spaces.Dict({}),
        spaces.Graph(spaces.Box(0, 1, (2,)), None), spaces.Discrete(10**9), spaces.MultiDiscrete([2**40, 2**40]),
        spaces.Discrete(2**62, start=-5), spaces.OneOf([spaces.Discrete(2)]),
    ]
)  # fmt: skip


@st.composite
def observations(draw: st.DrawFn, depth: int = 2) -> spaces.Space[Any]:
    if depth and draw(st.integers(0, 2)) == 0:
        names = draw(st.lists(st.one_of(NAMES, NAMES, NAMES, OTHER_NAMES), min_size=1, max_size=3, unique=True))
        return spaces.Dict({name: draw(observations(depth=depth - 1)) for name in names})
    return draw(st.one_of(LEAVES, LEAVES, LEAVES, LEAVES, ODD))


@st.composite
def real_actions(draw: st.DrawFn) -> spaces.Box:
    bounds = draw(st.sampled_from([(-1.0, 1.0), (-0.1, 0.3), (0.0, 1e4), (-np.inf, 1.0), (-1e300, 1e300)]))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.float16]))
    if dtype is not np.float64 and abs(bounds[0]) == 1e300:
        bounds = (-2.0, 2.0)
    return spaces.Box(*bounds, draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,)])), dtype)


ACTION_LEAVES = st.one_of(CHOICES, real_actions(), CHOICES, real_actions(), ODD)
ACTIONS = st.one_of(
    ACTION_LEAVES,
    st.dictionaries(st.one_of(NAMES, OTHER_NAMES), ACTION_LEAVES, min_size=1, max_size=2).map(spaces.Dict),
    st.dictionaries(NAMES, ACTION_LEAVES, min_size=1, max_size=2).map(
        lambda parts: spaces.Dict(arm=spaces.Dict(parts))
    ),
)

# ---------------------------------------------------------------------- what they should become, written anew


def leaves(space: spaces.Space[Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict) and len(space):
        for name, below in space.items():
            yield from leaves(below, (*path, name))
    else:
        yield path, space


def without_texts(space: spaces.Space[Any]) -> spaces.Space[Any] | None:
    """What of it is read where other things stand beside texts; None of texts alone."""
    if isinstance(space, spaces.Text):
        return None
    if not isinstance(space, spaces.Dict) or not len(space):
        return space
    parts = {name: kept for name, below in space.items() if (kept := without_texts(below)) is not None}
    return spaces.Dict(parts) if parts else None


def read_of(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """What is read, or refused whole where nothing but texts stands."""
    kept = without_texts(space)
    return space if kept is None else kept


def channels_axis(shape: tuple[int, ...]) -> int | None:
    """0 or 2 where the channels are fewer than the rows and the columns."""
    for axis in (0, 2):
        if all(shape[axis] < other for place, other in enumerate(shape) if place != axis):
            return axis
    return None


def is_renamed(space: spaces.Space[Any], *, root: bool) -> bool:
    """Whether TorchRL would call a "state" an "observation" somewhere, or at the root too."""
    if not isinstance(space, spaces.Dict):
        return False
    here = root and "state" in space.spaces and "observation" not in space.spaces
    return here or any(is_renamed(below, root=True) for below in space.values())


def cannot_be_observed(path: tuple[Any, ...], space: spaces.Space[Any]) -> bool:
    if path and path[0] in RESERVED:
        return True
    if {"shape", "_reset"} & set(path):
        return True
    if isinstance(space, spaces.Box):
        if 0 in space.shape:
            return True
        levels = space.dtype == np.uint8 or bool((space.low == 0).all() and (space.high == 255).all())
        if len(space.shape) == 3:
            unclear = channels_axis(space.shape) is None and min(space.shape[1:]) >= 8
            return unclear or (levels and space.dtype.kind == "f")
        return len(space.shape) == 4 and levels and space.dtype.kind == "f"
    return (
        not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        or (not isinstance(space, spaces.MultiBinary) and int(np.sum(np.atleast_1d(getattr(space, "n", 0)))) > 2**16)
        or (isinstance(space, spaces.MultiDiscrete) and int(space.nvec.astype(float).sum()) > 2**16)
    )


def expected(space: spaces.Space[Any], value: Any) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[int(value - space.start)]
    if isinstance(space, spaces.MultiDiscrete):
        picked = zip(space.nvec.ravel(), (value - space.start).ravel(), strict=True)
        return np.concatenate([np.eye(count, dtype=np.float32)[index] for count, index in picked])
    if isinstance(space, spaces.MultiBinary):
        return np.asarray(value, np.float32).ravel()
    assert isinstance(space, spaces.Box)
    value = np.asarray(value)
    levels = space.dtype == np.uint8 or bool((space.low == 0).all() and (space.high == 255).all())
    if value.ndim == 3 and channels_axis(value.shape) == 2:
        value = value.transpose(2, 0, 1)
    elif value.ndim == 4 and levels and channels_axis(value.shape[1:]) is not None:
        frames = [frame if channels_axis(frame.shape) == 0 else frame.transpose(2, 0, 1) for frame in value]
        value = np.concatenate(frames)
        return value.astype(np.uint8)
    if value.ndim == 3 and levels:
        return value.astype(np.uint8)
    return np.atleast_1d(value.astype(np.float32))


# ---------------------------------------------------------------------- the walk


class Played(gymnasium.Env[Any, Any]):
    """Shows samples of its space in another form, and spoils what it showed before, as simulators that reuse arrays."""

    def __init__(self, observation: Any, action: Any, number: int, form: str) -> None:
        self.observation_space, self.action_space, self.form = observation, action, form
        observation.seed(number)
        self.shown: list[Any] = []
        self.actions: list[Any] = []
        self.last: Any = None

    def _see(self) -> Any:
        spoil(self.last)
        seen = self.observation_space.sample()
        self.shown.append(copied(seen))
        self.last = seen
        return seen if self.form == "as it is" else reformed(seen, self.form)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._see(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.actions.append(copied(action))
        spoil(action)
        return self._see(), np.array([float(len(self.actions))]), False, False, {"reward": None}


def copied(value: Any) -> Any:
    return {name: copied(leaf) for name, leaf in value.items()} if isinstance(value, dict) else np.array(value)


def spoil(value: Any) -> None:
    for leaf in value.values() if isinstance(value, dict) else [value]:
        if isinstance(leaf, dict):
            spoil(leaf)
        elif isinstance(leaf, np.ndarray):
            leaf[...] = 0


def reformed(value: Any, form: str) -> Any:
    if isinstance(value, dict):
        return {name: reformed(leaf, form) for name, leaf in value.items()}
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if form == "lists":
        return array.tolist()
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def key_of(path: tuple[Any, ...], space: spaces.Space[Any], alone: str) -> tuple[Any, ...]:
    """In the tensordict; TorchRL renames a "state" without an "observation"."""
    if path[:1] == ("state",) and isinstance(space, spaces.Dict) and "observation" not in space.spaces:
        return ("observation", *path[1:])
    return path or (alone,)


def cannot_be_acted(path: tuple[Any, ...], space: spaces.Space[Any]) -> bool:
    if {"shape", "_reset"} & set(path) or (path and path[0] in RESERVED - {"action"}):
        return True
    if isinstance(space, spaces.Box):
        return 0 in space.shape or not (np.abs([space.low, space.high], dtype=np.float64) < 3e38).all()
    if isinstance(space, spaces.Discrete):
        return bool(space.n > 2**16)
    return not isinstance(space, spaces.MultiDiscrete) or float(space.nvec.astype(float).sum()) > 2**16


def walk(observation: Any, action: Any, number: int, form: str) -> None:
    simulator = Played(observation, action, number, form)
    observation = read_of(observation)
    refusable = any(cannot_be_observed(*leaf) for leaf in leaves(observation))
    refusable |= any(cannot_be_acted(*leaf) for leaf in leaves(action))
    refusable |= is_renamed(observation, root=False) or is_renamed(action, root=True)
    names = {key_of(path, observation, "observation")[0] for path, _ in leaves(observation)}
    refusable |= bool(names & (set(action) if isinstance(action, spaces.Dict) else {"action"}))
    refusal = None
    try:
        env = make_env(simulator, time_limit=LIMIT)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.startswith("Played: ")
        assert refusable, refusal
        found["refused"] += 1
        return
    assert not refusable
    found["taken"] += 1
    simulator.shown.clear()
    simulator.actions.clear()
    torch.manual_seed(number)
    transitions = env.rollout(STEPS, break_when_any_done=False)
    observation_spec, action_spec = specs_of(env)
    keys, action_keys = list(observation_spec.keys(True, True)), list(action_spec.keys(True, True))
    rows = Arrivals(keys, action_keys)(transitions).rows
    wanted = {key_of(path, observation, "observation"): (path, leaf) for path, leaf in leaves(observation)}
    assert {as_tuple(key) for key in keys} == set(wanted)
    for key, (path, leaf) in wanted.items():
        for row, shown in zip(rows, simulator.shown, strict=False):
            value = expected(leaf, at(shown, path))
            assert row[key].dtype == (torch.uint8 if value.dtype == np.uint8 else torch.float32)
            np.testing.assert_array_equal(row[key].numpy(), value)
            assert observation_spec[key].shape == value.shape
    check_actions(rows, action, simulator, action_keys)
    replay = Replay(capacity=40, window=2, batch_size=6, by="window")
    replay.extend(Arrivals(keys, action_keys)(transitions))
    batch = replay.sample()
    for key in keys:
        np.testing.assert_array_equal(batch[key].numpy(), rows[key][batch[INDEX]].numpy())
    for family in FAMILIES:
        observe(family, observation_spec, action_spec, batch)


def check_actions(rows: TensorDictBase, space: Any, simulator: Played, action_keys: list[Any]) -> None:
    """The previous action of every row that is not a reset's is what the simulator was given."""
    stored = dict(zip(map(as_tuple, action_keys), previous_action_keys(action_keys), strict=True))
    moved = rows[~rows[IS_INIT].flatten()]
    assert len(moved) == len(simulator.actions)
    for path, leaf in leaves(space):
        for row, given_action in zip(moved, simulator.actions, strict=True):
            taken, kept = at(given_action, path), row[stored[path or ("action",)]]
            if isinstance(leaf, spaces.Box):
                limits = [np.finfo(leaf.dtype).eps * max(1.0, float(np.abs(taken).max())), 1e-6]
                np.testing.assert_allclose(np.asarray(taken).ravel(), kept.numpy().ravel(), rtol=1e-6, atol=max(limits))
            else:
                np.testing.assert_array_equal(expected(leaf, taken), kept.numpy().ravel())


def observe(family: str, observation_spec: Any, action_spec: Any, batch: TensorDictBase) -> None:
    """The family reads the batch's values, each under its key, or refuses the observations by name."""
    kind, config = find_preset(f"{family}:tiny")
    config = dataclasses.replace(config, **SMALL.get(family, {}))
    try:
        model = kind.model_class(config, observation_spec, action_spec).eval()
    except ValueError:
        found[f"{family} refused"] += 1
        return
    found[f"{family} observed"] += 1
    batch = batch.copy()
    for goal in map(as_tuple, model.observation_keys):
        if goal[0] == GOAL and goal not in batch.keys(True, True):  # a family that plans to goals; here it is there
            batch[goal] = batch[goal[1:]]
    for key, value in model.read_observation(batch).items():
        assert torch.equal(value, batch[key])
    with torch.no_grad():
        latent = model.encode(batch.copy()).select(*model.latent_keys)
    assert all(bool(leaf.isfinite().all()) for leaf in latent.values(True, True) if leaf.is_floating_point())


# ---------------------------------------------------------------------- what is unlike its space


def wrongs(leaf: spaces.Space[Any], value: Any) -> list[Any]:
    """Values that are none of the leaf's."""
    array = np.asarray(value)
    wrong: list[Any] = [None, "text", {"a": 0}, object(), array.astype(complex), [[1.0], [1.0, 2.0]]]
    wrong += [np.stack([array, array]), np.concatenate([array.ravel(), array.ravel(), array.ravel()])]
    if isinstance(leaf, spaces.Box) and leaf.dtype == np.uint8 and array.ndim == 3:
        wrong += [array / 255.0 + 0.25, array.astype(np.int64) + 256, array.astype(np.int16) - 256, array.astype(bool)]
        wrong += [
            moved for moved in [np.moveaxis(array, 0, -1), np.moveaxis(array, -1, 0)] if moved.shape != array.shape
        ]
    if isinstance(leaf, spaces.Box) and leaf.dtype == np.float64:
        wrong += [np.full(array.shape, 1e200)]
    if isinstance(leaf, spaces.Discrete):
        wrong += [leaf.start - 1, leaf.start + leaf.n, float(value), np.nan]
    if isinstance(leaf, spaces.MultiDiscrete):
        wrong += [leaf.start + leaf.nvec, leaf.start - 1, array.astype(np.float32)]
    if isinstance(leaf, spaces.MultiBinary):
        wrong += [array + 2, array - 0.5]
    return wrong


class Slipping(Played):
    """Shows one observation that is none of its space."""

    at_step, slip = 0, staticmethod(lambda value: value)

    def _see(self) -> Any:
        seen = super()._see()
        return self.slip(seen) if len(self.shown) == self.at_step + 1 else seen


def replaced(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    return {**value, path[0]: replaced(value[path[0]], path[1:], wrong)} if path else wrong


def slip(observation: Any, number: int, step: int) -> None:
    read = read_of(observation)
    if any(cannot_be_observed(*leaf) for leaf in leaves(read)) or is_renamed(read, root=False):
        return
    simulator = Slipping(observation, spaces.Discrete(2), number, "as it is")
    env = make_env(simulator, time_limit=LIMIT)
    sample = observation.sample()
    tried = [(path, wrong) for path, leaf in leaves(read) for wrong in wrongs(leaf, at(sample, path))]
    if isinstance(read, spaces.Dict):
        name = next(iter(read))
        tried += [((), {**sample, "added": 0}), ((), {key: part for key, part in sample.items() if key != name})]
        tried += [((name,), {})] if isinstance(read[name], spaces.Dict) else []
    path, wrong = tried[number % len(tried)]
    simulator.at_step, simulator.slip = step, lambda seen: replaced(seen, path, wrong)
    simulator.shown.clear()
    with pytest.raises(ValueError, match=r"^Slipping: the observation"):
        env.rollout(STEPS, break_when_any_done=False)
    found["slips refused"] += 1


FORMS = st.sampled_from(["as it is", "lists", "wide numbers"])


def fuzz(number: int, examples: int) -> None:
    """Both walks, from a seed. What fails is not made smaller, which would take minutes."""
    profile = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    for check in (
        given(observations(), ACTIONS, st.integers(0, 2**31 - 1), FORMS)(walk),
        given(observations(), st.integers(0, 2**31 - 1), st.integers(0, STEPS))(slip),
    ):
        seed(number)(profile(check))()


@pytest.mark.filterwarnings("ignore:.*models read no texts")
def test_a_few_fuzzed_spaces_arrive_as_they_left_or_are_refused() -> None:
    fuzz(0, examples=15)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*models read no texts")
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_fuzzed_spaces_arrive_as_they_left_or_are_refused(number: int) -> None:
    """2,000 examples of each walk in all; the seed is the test's number."""
    found.clear()
    fuzz(number, examples=500)
    print(f"seed {number}: {dict(sorted(found.items()))}")  # noqa: T201 - what was found is this test's result
    assert min(found["taken"], found["refused"], found["slips refused"]) > 100
    assert all(found[f"{family} observed"] for family in ("dreamerv3", "tdmpc2", "jepa", "frozen_jepa", "tokens"))
