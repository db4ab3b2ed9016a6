"""HDF5 files as people write them: vectors, groups of sensors, several episodes in one file, and broken files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite

from worldloom_rl.data import Episodes, open_episodes

torch.set_num_threads(1)
LENGTHS = (4, 2, 5)  # frames of the episodes that are told below


def arrays(frames: int, *, last: bool) -> dict[str, np.ndarray]:
    """An episode whose numbers tell their step; actions and rewards of as many rows as frames, or of one less."""
    step = np.arange(frames, dtype=np.float64)
    rows = step if last else step[:-1]
    return {"observation": np.stack([step, -step, 0 * step], -1), "actions": rows[:, None] / 10, "rewards": rows + 1}


def write(file: h5py.Group, entries: Mapping[str, Any]) -> None:
    for name, value in entries.items():
        file[name] = value


def all_rows(episodes: Episodes) -> TensorDict:
    return episodes.rows(torch.arange(int(episodes.lengths.sum())))


def check(episodes: Episodes, lengths: Sequence[int], terminal: Sequence[int] = ()) -> None:
    """The rows are those of episodes of `arrays`, and those with these numbers end in a terminal state."""
    assert episodes.lengths.tolist() == list(lengths)
    steps = [step for length in lengths for step in range(length)]
    rows = all_rows(episodes)
    assert rows["observation"][:, 0].tolist() == steps
    assert torch.allclose(rows["previous_action"][:, 0], (torch.tensor(steps) - 1).clamp(min=0) / 10)
    assert rows["reward"].flatten().tolist() == steps  # that of the step before is one more
    assert rows["is_init"].flatten().tolist() == [step == 0 for step in steps]
    ends = (episodes.ends - 1).tolist()
    assert rows["terminated"].flatten().nonzero().flatten().tolist() == [ends[number] for number in terminal]
    others = [end for number, end in enumerate(ends) if number not in terminal]
    assert rows["truncated"].flatten().nonzero().flatten().tolist() == others


def joined(entries: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([entry[name] for entry in entries]) for name in entries[0]}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("place", ["files", "groups", "nested"])
def test_an_episode_is_a_file_or_a_group(place: str, last: bool, tmp_path: Path) -> None:
    for number, length in enumerate(LENGTHS):
        with h5py.File(tmp_path / (f"take{number}.h5" if place == "files" else "all.h5"), "a") as file:
            group = {"files": "/", "groups": f"take{number}", "nested": f"data/demo_{number}"}[place]
            entries = arrays(length, last=last) | {"terminated": number == 1}
            write(file.require_group(group), entries)
    check(open_episodes(str(tmp_path)), LENGTHS, terminal=[1])


def ends(*numbers: int) -> np.ndarray:
    """[11] set in the last rows of these episodes."""
    flags = np.zeros(sum(LENGTHS), dtype=bool)
    flags[[int(np.cumsum(LENGTHS)[number]) - 1 for number in numbers]] = True
    return flags


FLAT: dict[str, tuple[dict[str, np.ndarray], list[int]]] = {
    "flags": ({"terminals": ends(1), "timeouts": ends(0, 2)}, [1]),
    "flags, the last one open": ({"terminals": ends(1), "timeouts": ends(0)}, [1]),
    "flags as real numbers": ({"terminals": ends(1).astype(np.float32), "timeouts": ends(0).astype(float)}, [1]),
    "dones": ({"dones": ends(0, 1, 2).astype(np.uint8)}, []),
    "ids": ({"episode_index": np.repeat([7, 3, 4], LENGTHS)}, []),
    "ids and flags": ({"ep_idx": np.repeat([0, 1, 2], LENGTHS)[:, None], "terminated": ends(1, 2)}, [1, 2]),
}


@pytest.mark.parametrize("kind", FLAT)
def test_flat_arrays_hold_several_episodes(kind: str, tmp_path: Path) -> None:
    marks, terminal = FLAT[kind]
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        write(file, joined([arrays(length, last=True) for length in LENGTHS]) | marks)
    check(open_episodes(str(tmp_path / "flat.h5")), LENGTHS, terminal)


def test_next_observations_show_where_the_last_transition_leads(tmp_path: Path) -> None:
    """As D4RL has it: a row is a transition, and its flag says what it leads to."""
    parts = [arrays(length, last=False) for length in LENGTHS]
    for part in parts:
        shown = part.pop("observation")
        part["observations"], part["next_observations"] = shown[:-1], shown[1:]
    flags = np.cumsum([length - 1 for length in LENGTHS]) - 1
    terminals, timeouts = np.zeros((2, sum(LENGTHS) - 3), dtype=bool)
    terminals[flags[1]], timeouts[flags[0]] = True, True
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        write(file, joined(parts) | {"terminals": terminals, "timeouts": timeouts})
    check(open_episodes(str(tmp_path)), LENGTHS, terminal=[1])


def test_single_frames_among_flat_episodes_are_left_out(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        write(file, joined([arrays(length, last=True) for length in (3, 1, 2)]))
        file["episode"] = np.repeat([0, 1, 2], (3, 1, 2))
    check(open_episodes(str(tmp_path)), (3, 2))


def test_sensors_of_a_group_have_keys_of_their_own(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), np.uint8)
    with h5py.File(tmp_path / "robot.hdf5", "w") as file:
        group = file.create_group("data/demo_0")
        write(group, {"actions": arrays(4, last=True)["actions"], "dones": np.array([0, 0, 1, 1])})
        write(group.create_group("obs"), {"camera": frames, "joints": np.ones((4, 7)), "grip": np.arange(4)})
    episodes = open_episodes(str(tmp_path))
    rows = all_rows(episodes)
    assert torch.equal(rows["camera"], torch.from_numpy(frames).permute(0, 3, 1, 2))
    assert rows["joints"].shape == (4, 7)
    assert rows["grip"].tolist() == [[0.0], [1.0], [2.0], [3.0]]
    assert {str(key) for key in episodes.observation_spec.keys()} == {"camera", "joints", "grip"}  # noqa: SIM118


def test_tasks_are_attributes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for number, task in enumerate(["open", "close", "open"]):
            write(file.create_group(str(number)), arrays(3, last=True))
            file[str(number)].attrs["task"] = task
    episodes = open_episodes(str(tmp_path))
    assert episodes.names == ("open", "close")
    assert all_rows(episodes)["task"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert open_episodes(str(tmp_path), ["close"]).lengths.tolist() == [3]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        write(file, arrays(3, last=True))
    with pytest.raises(ValueError, match=r"b\.h5, / has no attribute 'task'"):
        open_episodes(str(tmp_path))


STATE = arrays(5, last=True)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({**STATE, "observation": STATE["observation"][:4]}, r"'actions' must be real numbers \[3 or 4, A\]"),
        ({**STATE, "rewards": STATE["rewards"][:3]}, r"'rewards' must be one number a transition, \[4 or 5\]"),
        ({**STATE, "rewards": np.zeros((5, 2))}, r"'rewards' must be one number a transition"),
        ({**STATE, "observation": np.zeros((5, 2, 3))}, r"'observation' must be numbers \[5, P\]"),
        ({**STATE, "observation": np.array([b"a"] * 5)}, r"'observation' must be numbers \[5, P\]"),
        ({**STATE, "terminated": np.zeros(3)}, "flag of the ends of episodes has 3 rows for 5 frames"),
        ({**STATE, "terminated": np.array([0, 1, 0, 0])}, "row 1 says that a terminal state came"),
        ({**STATE, "episode": np.zeros(4)}, "'episode' has 4 rows for 5 frames"),
        ({**STATE, "episode": np.arange(5)}, "none of its 5 episodes has a transition"),
        ({**STATE, "observation": STATE["observation"] * np.nan}, "row 0: 'observation' is not finite"),
        ({**STATE, "rewards": STATE["rewards"] * np.inf}, "row 1: 'reward' is not finite"),
        ({"obs/action": np.zeros((5, 2)), "actions": STATE["actions"]}, r"\['action'\] have names of the key contract"),
    ],
)
def test_what_does_not_fit_is_named(entries: Mapping[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        write(file, entries)
    with pytest.raises(ValueError, match=message) as raised:
        all_rows(open_episodes(str(tmp_path)))
    assert "bad.h5" in str(raised.value)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil(file: Path) -> None:
    """Damages the compressed content behind the headers."""
    content = bytearray(file.read_bytes())
    middle = content.rindex(b"x\x5e") if b"x\x5e" in content else len(content) - 40
    content[middle : middle + 40] = bytes(40)
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda file: file.write_bytes(b"half of a file"), lambda file: file.write_bytes(b""), halve, spoil]
)
def test_one_broken_file_among_many_is_named(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    for number in (0, 1, 7):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            for name, value in arrays(200, last=True).items():
                file.create_dataset(name, data=value, compression="gzip")
    damage(tmp_path / "7.h5")
    with pytest.raises(ValueError, match=r"7\.h5 cannot be read as HDF5"):
        all_rows(open_episodes(str(tmp_path)))


def test_a_directory_with_the_name_of_a_file_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "takes.h5").mkdir()
    with h5py.File(tmp_path / "takes.h5" / "0.h5", "w") as file:
        write(file, arrays(3, last=True))
    check(open_episodes(str(tmp_path)), [3])


def test_actions_beyond_the_bounds_of_their_environment_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file, arrays(4, last=False))  # actions from 0 to 0.2
    for high, slack in ((0.2, True), (0.1999999, True), (0.19, False)):
        specs = {"a": Composite(action=Bounded(0.0, high, shape=(1,), dtype=torch.float32))}
        if slack:
            open_episodes(str(tmp_path / "a.h5"), ["a"], action_specs=specs)
            continue
        with pytest.raises(ValueError, match=r"column 0 of the actions is in \[0, 0\.2\], but the environment takes"):
            open_episodes(str(tmp_path / "a.h5"), ["a"], action_specs=specs)


def test_what_is_named_twice_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file, arrays(4, last=False))
    for twice in ([f"{tmp_path}/a.h5"] * 2, [f"{tmp_path}/a.h5", f"{tmp_path}/./a.h5"], ["a=x"] * 2):
        with pytest.raises(ValueError, match="is named twice: its episodes would count double"):
            open_episodes(twice)


def secret(file: h5py.File) -> Path:
    """A file beside it with numbers that are nobody's business."""
    other = Path(file.filename).with_suffix(".other")
    with h5py.File(other, "w") as content:
        content["rewards"] = np.ones(5)
    return other


def replaced(name: str, make: Callable[[h5py.File], object]) -> Callable[[h5py.File], None]:
    """Puts something else in the place of an array; what is made is put there, unless making put it."""

    def change(file: h5py.File) -> None:
        del file[name]
        if (value := make(file)) is not None:
            file[name] = value

    return change


def raw(file: h5py.File) -> None:
    file.create_dataset("rewards", (5,), np.float64, external=[(str(secret(file)), 0, 40)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5,), np.float64)
    layout[:] = h5py.VirtualSource(secret(file), "rewards", (5,))
    file.create_virtual_dataset("rewards", layout)


def unwritten(file: h5py.File) -> None:
    file.create_dataset("actions", (5, 10**10), np.float32, chunks=(5, 1000))


HOSTILE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "numbers of another file": (replaced("rewards", raw), "'rewards' leads to other files"),
    "a virtual array": (replaced("rewards", virtual), "'rewards' leads to other files"),
    "a link to another file": (
        replaced("rewards", lambda file: h5py.ExternalLink(str(secret(file)), "rewards")),
        "'rewards' leads to other files",
    ),
    "a size without content": (replaced("actions", unwritten), "'actions' would have 200,000,000,000 bytes"),
    "a single number": (replaced("actions", lambda file: 3.0), "'actions' is no array of rows"),
    "nothing": (replaced("observation", lambda file: h5py.Empty("f")), "'observation' is no array of rows"),
    "a group": (
        replaced("actions", lambda file: file.create_group("actions") and None),
        "'actions' is no array of rows",
    ),
    "a link to itself": (replaced("rewards", lambda file: h5py.SoftLink("/rewards")), ""),
    "flags of another file": (
        lambda file: file.update({"terminals": h5py.ExternalLink(str(secret(file)), "rewards")}),
        "'terminals' leads to other files",
    ),
    "numbers without content": (
        lambda file: file.create_dataset("episode", (10**11,), np.int8, chunks=(1000,)),
        "'episode' would have 100,000,000,000 bytes",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_file_does_not_hold_itself_is_refused(kind: str, tmp_path: Path) -> None:
    change, message = HOSTILE[kind]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file, arrays(5, last=True))
        change(file)
    with pytest.raises(ValueError, match=rf"a\.h5.*{message}"):
        all_rows(open_episodes(str(tmp_path / "a.h5")))


def test_groups_that_hold_themselves_and_pipes_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("a")
        group["again"], group["and again"] = group, file
    with pytest.raises(ValueError, match=r"a\.h5"):
        open_episodes(str(tmp_path / "a.h5"))
    (tmp_path / "more").mkdir()
    os.mkfifo(tmp_path / "more" / "b.h5")
    with pytest.raises(FileNotFoundError, match=r"b\.h5 is no regular file"):
        open_episodes(str(tmp_path / "more"))
