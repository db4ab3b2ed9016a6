"""Recorded episodes become the rows that a collector of the same episodes writes, and mistakes in files are named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite
from torchrl.envs import EnvBase
from torchrl.modules import RandomPolicy

from worldloom_rl.data import Arrivals, Episodes, Replay, open_episodes
from worldloom_rl.data.filling import fill
from worldloom_rl.data.hdf5_recording import HDF5Recording
from worldloom_rl.envs import make_env
from worldloom_rl.keys import STREAM, previous_action_keys
from worldloom_rl.specs.observations import leaves_of
from worldloom_rl.specs.spaces import resize_image

torch.set_num_threads(1)


class Signals(gymnasium.Env[Any, Any]):
    """Episodes of 1 to 5 steps whose observation is a dictionary: an image, a number, a place, a text."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (12, 10, 3), np.uint8),
            "state": spaces.Box(-1.0, 1.0, (2,), np.float64),
            "parts": spaces.Dict({"place": spaces.Discrete(4)}),
        }
    )
    action_space = spaces.Dict({"steer": spaces.Box(-2.0, 2.0, (2,), np.float32), "gear": spaces.Discrete(3, start=1)})

    def _observed(self) -> dict[str, Any]:
        random = self.np_random
        return {
            "camera": random.integers(0, 256, (12, 10, 3), np.uint8),
            "state": random.uniform(-1, 1, 2),
            "parts": {"place": random.integers(4)},
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 6))
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        self.left -= 1
        return self._observed(), float(self.np_random.normal()), self.left == 0, False, {}


gymnasium.register("recorded/Signals-v0", entry_point=Signals, max_episode_steps=4)


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps all that passes, as Minari's episodes (its own DataCollector does so too, but needs jax)."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes: list[tuple[list[Any], ...]] = []  # observations, actions, rewards, terminated, truncated

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        self.episodes.append(([copy.deepcopy(observation)], [], [], [], []))
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        outcome = self.env.step(action)
        observation, reward, terminated, truncated, _ = outcome
        values = (observation, action, float(reward), terminated, truncated)
        for kept, value in zip(self.episodes[-1], values, strict=True):
            kept.append(copy.deepcopy(value))
        return outcome

    def save(self, name: str) -> None:
        buffers = []
        for observations, actions, rewards, terminations, truncations in self.episodes:
            if not actions:
                continue
            truncations[-1] |= not terminations[-1]
            values = (stacked(observations), stacked(actions), rewards, terminations, truncations)
            names = ("observations", "actions", "rewards", "terminations", "truncations")
            buffers.append(EpisodeBuffer(**dict(zip(names, values, strict=True))))
        spaces_ = {"observation_space": self.observation_space, "action_space": self.action_space}
        minari.create_dataset_from_buffers(name, buffers, jpeg_encoding=False, **spaces_)


def stacked(rows: list[Any]) -> Any:
    if isinstance(rows[0], dict):
        return {part: stacked([row[part] for row in rows]) for part in rows[0]}
    return rows if isinstance(rows[0], str) else np.stack(rows)


def collected(name: str, steps: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[EnvBase, TensorDict]:
    """A collector's transitions [steps] of random actions, recorded at the same time as the Minari dataset test/it-v0.

    The recorder stands below everything that the library does to an environment.
    """
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    recorders = []

    def make(**options: Any) -> Recorder:
        recorders.append(Recorder(gymnasium.make(name, **options)))
        return recorders[-1]

    limit = gymnasium.spec(name).max_episode_steps
    gymnasium.registry.pop("recorded/It-v0", None)
    gymnasium.register("recorded/It-v0", entry_point=make, max_episode_steps=limit)
    env = make_env("recorded/It-v0", seed=3)
    torch.manual_seed(0)
    collector = Collector(env, RandomPolicy(env.full_action_spec), frames_per_batch=steps, total_frames=steps)
    transitions = next(iter(collector))
    recorders[-1].save("test/it-v0")
    return env, transitions


def rows_of(episodes: Episodes) -> TensorDict:
    return episodes.rows(torch.arange(int(episodes.lengths.sum())))


def one_hot(classes: int, number: int) -> list[float]:
    return [float(place == number) for place in range(classes)]


BOX = spaces.Box(-1.0, 2.0, (2, 3), np.float64)
ARM = spaces.Dict({"turn": spaces.Box(-1, 1, (2,)), "grip": spaces.Discrete(2)})
# Each space with an action of it and what a row holds of that.
ACTION_SPACES: list[tuple[spaces.Space[Any], Any, Any]] = [
    (spaces.Discrete(3, start=-1), 1, one_hot(3, 2)),
    (spaces.Discrete(1), 0, [1.0]),
    (spaces.Discrete(300), 299, one_hot(300, 299)),
    (spaces.MultiDiscrete([3, 3]), np.array([2, 0]), [one_hot(3, 2), one_hot(3, 0)]),
    (spaces.MultiDiscrete([2, 4, 3]), np.array([1, 2, 0]), [*one_hot(2, 1), *one_hot(4, 2), *one_hot(3, 0)]),
    (spaces.MultiDiscrete([2]), np.array([1]), one_hot(2, 1)),
    (spaces.MultiDiscrete([3, 2], start=[1, -5]), np.array([3, -5]), [*one_hot(3, 2), *one_hot(2, 0)]),
    (spaces.MultiDiscrete([3, 3], dtype=np.int32), np.array([1, 0], np.int32), [one_hot(3, 1), one_hot(3, 0)]),
    (spaces.Box(-1.0, 2.0, (), np.float32), np.float32(0.5), 0.5),
    (BOX, np.arange(6.0).reshape(2, 3) / 4, [[0.0, 0.25, 0.5], [0.75, 1.0, 1.25]]),
    (spaces.Box(-1, 3, (2,), np.float16), np.array([0.5, 2.0], np.float16), [0.5, 2.0]),
    (ARM, {"turn": np.array([0.5, -1.0], np.float32), "grip": 1}, {"turn": [0.5, -1.0], "grip": one_hot(2, 1)}),
]
REFUSED = [
    (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8)),
    (spaces.Box(-3, 3, (2,), np.int64), np.array([1, 2])),
    (spaces.MultiDiscrete([[2, 3], [2, 3]]), np.array([[1, 2], [0, 0]])),
    (spaces.Box(-np.inf, np.inf, (2,)), np.zeros(2, np.float32)),
]


def of_actions(space: spaces.Space[Any], action: Any) -> Episodes:
    """A dataset of one episode with three times the same action."""
    count, observed = 3, spaces.Box(-1, 1, (2,))
    actions = {part: np.stack([value] * count) for part, value in action.items()} if isinstance(action, dict) else None
    values = (np.zeros((count + 1, 2), np.float32), np.stack([action] * count) if actions is None else actions)
    flags = np.zeros(count, bool), np.array([False] * (count - 1) + [True])
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    buffer = EpisodeBuffer(**dict(zip(names, (*values, np.ones(count), *flags), strict=True)))
    minari.create_dataset_from_buffers("test/any-v0", [buffer], observation_space=observed, action_space=space)
    return open_episodes("minari:test/any-v0")


@pytest.mark.parametrize(("space", "action", "expected"), ACTION_SPACES, ids=lambda value: str(value)[:30])
@pytest.mark.filterwarnings("ignore::UserWarning")  # minari misses descriptions and authors of the dataset
def test_recordings_have_every_action_space_that_environments_have(
    space: spaces.Space[Any], action: Any, expected: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    recording = of_actions(space, action)
    rows = rows_of(recording)
    keys = tuple(leaves_of(recording.action_spec))
    for key, stored in zip(keys, previous_action_keys(keys), strict=True):
        value = rows[stored]
        wanted = expected[key] if isinstance(expected, dict) else expected
        assert not value[0].any()
        assert value[1:].tolist() == [wanted] * 3
        assert recording.action_spec[key].expand(3, *recording.action_spec[key].shape).is_in(value[1:])
    assert rows_of(recording.kept())["is_init"].flatten().tolist() == [True, False, False, False]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_recorded_texts_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    observed = spaces.Dict({"x": spaces.Box(-1, 1, (2,)), "mission": spaces.Text(8)})
    buffer = EpisodeBuffer(
        observations={"x": np.zeros((3, 2), np.float32), "mission": ["go", "go", "on"]},
        actions=np.zeros((2, 1), np.float32),
        rewards=np.ones(2),
        terminations=np.zeros(2, bool),
        truncations=np.array([False, True]),
    )
    minari.create_dataset_from_buffers(
        "test/said-v0", [buffer], observation_space=observed, action_space=spaces.Box(-1, 1, (1,))
    )
    recording = open_episodes("minari:test/said-v0")
    assert set(recording.observation_spec.keys()) == {"x"}
    assert rows_of(recording)["x"].shape == (3, 2)


def bounded(reach: float, width: int = 2) -> Composite:
    return Composite(action=Bounded(-reach, reach, (width,), dtype=torch.float32))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_declared_bounds_of_actions_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    of_actions(spaces.Box(-1, 1, (2,)), np.array([0.5, -1.0], np.float32))
    for source, task in (("minari:test/any-v0", "any"), ("a=minari:test/any-v0", "dmc:a")):
        assert len(open_episodes(source, action_specs={task: bounded(1.0)}).lengths) == 1
        with pytest.raises(
            ValueError,
            match=r"any-v0: column 0 of 'action' is declared .* \[-1, 1\], but the environment takes \[-2, 2\]",
        ):
            open_episodes(source, action_specs={task: bounded(2.0)})


def main_data(change: Callable[[h5py.Group], object]) -> Callable[[Path], None]:
    """Changes the first episode of a Minari dataset."""

    def change_file(folder: Path) -> None:
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            change(file["episode_0"])

    return change_file


def put(name: str, value: Any) -> Callable[[h5py.Group], object]:
    def change(episode: h5py.Group) -> None:
        del episode[name]
        episode[name] = value

    return change


def metadata(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "metadata.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def cut(folder: Path) -> None:
    file = folder / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


MINARI_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an end in the middle": (main_data(put("terminations", [True, False, True])), "ends in step 0 already, but has 3"),
    "a cut in the middle": (main_data(put("truncations", [False, True, True])), "ends in step 1 already, but has 3"),
    "too few rewards": (main_data(put("rewards", [1.0, 2.0])), "rewards have 2 rows, but 3 belong to 3 steps"),
    "too few observations": (main_data(put("observations", np.zeros((3, 2)))), "observations have 3 rows, but 4"),
    "no rewards": (main_data(lambda episode: episode.pop("rewards")), "cannot be read"),
    "no steps told": (main_data(lambda episode: episode.attrs.pop("total_steps")), "cannot be read"),
    "steps below zero": (
        main_data(lambda episode: episode.attrs.modify("total_steps", -2)),
        "says that an episode has -2",
    ),
    "a cut file": (cut, "cannot be read"),
    "no environment": (metadata(env_spec='{"id": 1'), "cannot be read"),
    "no space": (metadata(action_space='{"type": "Box"}'), "cannot be read"),
}


@pytest.mark.parametrize("damage", MINARI_DAMAGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_minari_dataset_is_named(damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    of_actions(spaces.Box(-1, 1, (2,)), np.zeros(2, np.float32))
    change, message = MINARI_DAMAGES[damage]
    change(tmp_path / "test" / "any-v0" / "data")
    with pytest.raises(ValueError, match=f"minari:test/any-v0.*{message}"):
        rows_of(open_episodes("minari:test/any-v0"))


@pytest.mark.parametrize(("space", "action"), REFUSED, ids=lambda value: str(value)[:30])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_action_spaces_that_no_environment_may_have_are_named(
    space: spaces.Space[Any], action: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"minari:test/any-v0: 'action'"):
        of_actions(space, action)


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1", "worldloom/Catch-v0", "recorded/Signals-v0"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # minari misses descriptions and authors of the dataset
def test_rows_of_a_minari_dataset_are_those_of_the_collector(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env, transitions = collected(name, 230, monkeypatch, tmp_path)
    recording = open_episodes("minari:test/it-v0")
    keys = list(recording.observation_spec.keys(True, True))
    arrivals = Arrivals(keys, list(env.action_keys))
    expected = arrivals(transitions.unsqueeze(0)).rows
    found = rows_of(recording)
    found[STREAM] = torch.zeros(len(found), dtype=torch.int64)
    assert arrivals.goes_on is not None
    if arrivals.goes_on.item():
        expected["truncated"][-1] = True  # the recorder calls the episode cut that the collector left open
    assert set(found.keys(True, True)) == set(expected.keys(True, True))
    for key, value in expected.items(True, True):
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key
    kept = rows_of(recording.kept())  # read into memory, where rows are drawn from
    assert all(torch.equal(value, found[key]) for key, value in kept.items(True, True))
    for spec, own in (
        (recording.observation_spec, env.observation_spec),
        (recording.action_spec, env.full_action_spec),
    ):
        for key, leaf in spec.items(True, True):
            assert leaf == own[key], key


def write_video(file: h5py.Group, transitions: TensorDict, last_action: bool) -> None:
    """An episode as a person would write it: frames with channels last, the action between each two."""
    frames = torch.cat([transitions["observation"][:1], transitions["next", "observation"]])
    actions = transitions["action"].float()
    file["pixels"] = frames.permute(0, 2, 3, 1).numpy()
    unused = [torch.full_like(actions[:1], torch.nan)] if last_action else []
    file["actions"] = torch.cat([actions, *unused]).numpy()
    file["proprio"] = np.arange(2 * len(frames)).reshape(-1, 2)
    file["left alone"] = "a note"


def episodes_of(transitions: TensorDict) -> list[TensorDict]:
    ends = (transitions["next", "done"].flatten().nonzero().flatten() + 1).tolist()
    return [transitions[first:stop] for first, stop in zip([0, *ends[:-1]], ends, strict=True)]


@pytest.mark.parametrize("one_file", [False, True])
def test_rows_of_hdf5_videos_are_those_of_the_collector(one_file: bool, tmp_path: Path) -> None:
    env = make_env("worldloom/Catch-v0", seed=1, time_limit=11)
    torch.manual_seed(0)
    transitions = next(iter(Collector(env, RandomPolicy(env.action_spec), frames_per_batch=11 * 12, total_frames=132)))
    for number, episode in enumerate(episodes_of(transitions)):  # 12 episodes: 2 comes before 10
        file = h5py.File(tmp_path / ("all.hdf5" if one_file else f"take{number}.h5"), "a")
        with file:
            write_video(file.create_group(f"take{number}") if one_file else file, episode, number % 2 == 0)
    recording = open_episodes(str(tmp_path / "all.hdf5") if one_file else str(tmp_path))
    expected = Arrivals(["observation"])(transitions.unsqueeze(0)).rows
    found = rows_of(recording)
    assert torch.equal(found["pixels"], expected["observation"])
    assert found["pixels"].dtype == torch.uint8
    assert torch.equal(found["previous_action"], expected["previous_action"].float())
    for key in ("is_init", "truncated", "terminated"):
        assert torch.equal(found[key], expected[key]), key
    assert not found["reward"].any()
    assert found["proprio"][:3].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert recording.observation_spec["pixels"].shape == (3, 64, 64)
    assert recording.action_spec["action"].space.low.tolist() == [0.0] * 5


def test_a_long_episode_is_read_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1300, 4, 4, 1), np.uint8)
    with h5py.File(tmp_path / "long.h5", "w") as file:
        file["pixels"], file["actions"] = frames, np.linspace(0, 1, 1299)[:, None]
    recording = open_episodes(str(tmp_path))
    assert isinstance(recording, HDF5Recording)
    read, parts = recording.read, []
    monkeypatch.setattr(recording, "read", lambda *place: parts.append(place) or read(*place))
    replay = Replay(capacity=1300, window=1300, batch_size=1, by="within")
    fill(replay, Arrivals(["pixels"]), recording, [0])
    assert parts == [(0, 0, 512), (0, 512, 1024), (0, 1024, 1299)]
    window = replay.sample()[0]
    assert torch.equal(window["pixels"], torch.from_numpy(frames).permute(0, 3, 1, 2))
    assert torch.equal(window["previous_action"][1:], torch.linspace(0, 1, 1299, dtype=torch.float64).float()[:, None])
    assert window["is_init"].flatten().nonzero().tolist() == [[0]]
    assert window["truncated"].flatten().nonzero().tolist() == [[1299]]


def test_images_are_brought_to_the_size_that_an_environment_gives(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), np.uint8)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["pixels"], file["actions"] = frames, np.zeros((4, 2), np.float32)
    recording = open_episodes(str(tmp_path), image_size=16)
    assert recording.observation_spec["pixels"].shape == (3, 16, 16)
    first = torch.from_numpy(resize_image(np.moveaxis(frames[0], -1, 0), 16))
    assert torch.equal(recording.rows(torch.tensor(0))["pixels"], first)
    assert recording.action_spec["action"].space.low.tolist() == [-1.0, -1.0]  # of columns that never change
    assert recording.action_spec["action"].space.high.tolist() == [1.0, 1.0]


PIXELS, ACTIONS = np.zeros((5, 8, 8, 3), np.uint8), np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"video": PIXELS}, r"bad.h5 holds \['video'\], no 'pixels'"),
        ({"pixels": PIXELS}, r"bad.h5, /: there is no 'actions'"),
        ({"pixels": PIXELS.astype(np.float32), "actions": ACTIONS}, r"uint8 \[T, height, width, C\].* got float32"),
        ({"pixels": np.moveaxis(PIXELS, -1, 1), "actions": ACTIONS}, r"C = 1, 3 or 4, got uint8 \[5, 3, 8, 8\]"),
        ({"pixels": PIXELS[:1], "actions": ACTIONS[:0]}, "at least two frames, got 1"),
        ({"pixels": PIXELS, "actions": ACTIONS[:3]}, r"real numbers \[4 or 5, A\] for 5 frames, got float32 \[3, 2\]"),
        ({"pixels": PIXELS, "actions": np.zeros((4, 2), int)}, r"got int64 .* write discrete ones as one-hot rows"),
        ({"pixels": PIXELS, "actions": ACTIONS + np.nan}, "row 0 of 'actions' is not finite"),
        ({"pixels": PIXELS, "actions": ACTIONS, "proprio": ACTIONS}, r"'proprio' must be numbers \[5, P\]"),
        ({"pixels": PIXELS[:, :4], "actions": ACTIONS}, r"rows of shape \(4, 8, 3\), but in .*a.h5, / of \(8, 8, 3\)"),
        ({"pixels": PIXELS, "actions": ACTIONS[:, :1]}, r"'actions' has rows of shape \(1,\), but .* of \(2,\)"),
    ],
)
def test_mistakes_in_files_are_named(entries: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    for name, content in (("a", {"pixels": PIXELS, "actions": ACTIONS}), ("bad", entries)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for key, value in content.items():
                file[key] = value
    with pytest.raises(ValueError, match=message):
        open_episodes(str(tmp_path))


def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"holds no file \*\.h5 or \*\.hdf5"):
        open_episodes(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; .*minari:NAME"):
        open_episodes(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no local Minari dataset 'test/none-v0'.*minari download"):
        open_episodes("minari:test/none-v0")


def test_a_recording_that_does_not_fit_is_not_cut(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["pixels"], file["actions"] = PIXELS, ACTIONS
    replay = Replay(capacity=4, window=2, batch_size=1, by="within")
    with pytest.raises(ValueError, match="5 rows do not fit a replay of 4"):
        fill(replay, Arrivals(["pixels"]), open_episodes(str(tmp_path)), [0])
