"""Files of TD-MPC2 and newt: what is wrong in one is named before anything of it is read, and nothing of it runs."""

from __future__ import annotations

import json
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.serialization import skip_data

from worldloom_rl.data import Windows, open_episodes
from worldloom_rl.data.stored_episodes import StoredEpisodes

torch.set_num_threads(1)


class Foreign:
    """What a pickle would build by calling; the test fails if it ever is."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return pytest.fail, ("a foreign object was built",)


def chunk(episodes: int = 3, rows: int = 5, **leaves: Tensor) -> TensorDict:
    """A file's content: numbers that tell their place, tasks 0, 1, 0, …, the first rows' rewards and actions NaN."""
    place = torch.arange(episodes * rows, dtype=torch.float32).reshape(episodes, rows)
    action = torch.stack([place / 100, -place / 100], -1)
    reward = place.clone()
    action[:, 0], reward[:, 0] = torch.nan, torch.inf
    task = (torch.arange(episodes, dtype=torch.int32) % 2).unsqueeze(-1).repeat(1, rows)
    content = {"obs": torch.stack([place] * 3, -1).clone(), "action": action, "reward": reward, "task": task}
    return TensorDict({**content, **leaves}, [episodes, rows])


def write(folder: Path, content: object, name: str = "chunk_0.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def opened(folder: Path, tasks: tuple[str, ...] = ("a", "b")) -> StoredEpisodes:
    found = open_episodes(f"tdmpc2:{folder}", tasks)
    assert isinstance(found, StoredEpisodes)
    return found


def test_files_are_joined_in_the_order_of_their_names_as_text(tmp_path: Path) -> None:
    for name, rows in (("chunk_10.pt", 4), ("chunk_2.pt", 5), ("chunk_0.pt", 6)):
        write(tmp_path, chunk(rows=rows), name)
    found = opened(tmp_path)
    assert found.lengths.tolist() == [6] * 3 + [4] * 3 + [5] * 3
    assert [file.name for file in found.files()] == ["chunk_0.pt", "chunk_10.pt", "chunk_2.pt"]
    rows = found.rows(torch.tensor([[0, 1], [18, 19], [34, 44]]))  # in each file
    assert rows["observation"][..., 0].tolist() == [[0.0, 1.0], [0.0, 1.0], [4.0, 14.0]]
    assert rows["reward"].squeeze(-1).tolist() == [[0.0, 1.0], [0.0, 1.0], [4.0, 14.0]]
    assert rows["is_init"].squeeze(-1).tolist() == [[True, False], [True, False], [False, False]]
    assert rows["truncated"].squeeze(-1).tolist() == [[False, False], [False, False], [True, True]]
    assert rows["task"].tolist() == [[0, 0], [0, 0], [0, 0]]


def test_tasks_are_named_by_the_run_or_beside_the_files_and_others_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, chunk())
    with pytest.raises(ValueError, match=r"has episodes of task 1, so at least 2 tasks.*--tasks.*tasks\.json"):
        open_episodes(f"tdmpc2:{tmp_path}")
    (tmp_path / "tasks.json").write_text(json.dumps(["walk", "run"]))
    assert open_episodes(f"tdmpc2:{tmp_path}").names == ("walk", "run")
    turned = open_episodes(f"tdmpc2:{tmp_path}", ["dmc:run", "dmc:walk"])
    assert turned.tasks.tolist() == [1, 0, 1]
    assert turned.rows(turned.ends - 1)["task"].tolist() == [1, 0, 1]
    one = open_episodes(f"tdmpc2:{tmp_path}", ["run"])
    assert one.lengths.tolist() == [5]
    assert one.rows(torch.arange(5))["observation"][:, 0].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0]
    assert "task" not in one.rows(torch.arange(5))
    with pytest.raises(ValueError, match=r"no episode of the task 'rum'.*Did you mean 'run'"):
        open_episodes(f"tdmpc2:{tmp_path}", ["rum"])


def with_value(name: str, value: float) -> TensorDict:
    content = chunk()
    content[name][1, 2] = value
    return content


SHARED = torch.zeros(3, 5)
MISTAKES = {
    "nan": (with_value("obs", torch.nan), "episode 1, row 2: 'observation' is not finite"),
    "infinite reward": (with_value("reward", torch.inf), "episode 1, row 2: 'reward' is not finite"),
    "nan action": (with_value("action", torch.nan), "episode 1, row 2: 'previous_action' is not finite"),
    "task changes": (with_value("task", 0), "episode 1: 'task' is negative, or differs"),
    "dtype": (chunk(obs=torch.zeros(3, 5, 3, dtype=torch.float64)), "'obs' is of float64, expected float32"),
    "task dtype": (chunk(task=torch.zeros(3, 5)), "'task' is of float32, expected int32 or int64"),
    "shape": (chunk(reward=torch.zeros(3, 5, 1)), r"'reward' has the shape \[3, 5, 1\], expected \[3, 5\]"),
    "flat observation": (chunk(obs=torch.zeros(3, 5)), r"'obs' has the shape \[3, 5\], expected \[3, 5, width\]"),
    "empty": (chunk(obs=torch.zeros(3, 5, 0)), r"'obs' has the shape \[3, 5, 0\]"),
    "shared": (chunk(reward=SHARED, terminated=SHARED), "share memory"),
    "part of a storage": (chunk(reward=torch.zeros(4, 5)[1:]), "does not lie whole and alone"),
    "stride 0": (chunk(obs=torch.zeros(1, 1, 3).expand(3, 5, 3)), "does not lie whole and alone"),
    "more": (chunk(pixels=torch.zeros(3, 5)), r"has the unknown \['pixels'\]"),
    "less": (chunk().exclude("reward"), r"lacks \['reward'\]"),
    "nested": (chunk(obs=TensorDict({"x": torch.zeros(3, 5)}, [3, 5])), "'obs' is not a plain tensor"),
    "flat": (chunk().reshape(-1), "its batch is"),
    "named": (TensorDict(chunk().to_dict(), [3, 5], names=["episode", "time"]), "dimensions have names"),
    "dictionary": (chunk().to_dict(), "holds no TensorDict, but dict"),
    "tensor": (torch.zeros(3), "holds no TensorDict, but Tensor"),
    "foreign": ({"obs": Foreign()}, "pickled object '_pytest.outcomes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_named(mistake: str, tmp_path: Path) -> None:
    content, message = MISTAKES[mistake]
    write(tmp_path, content, "chunk_7.pt")
    with pytest.raises(ValueError, match=message) as raised:
        opened(tmp_path)
    assert "chunk_7.pt" in str(raised.value)
    assert len(str(raised.value)) < 500


def rewritten(file: Path, change: Callable[[str, bytes], bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file) as archive:
        records = [(record.filename, archive.read(record)) for record in archive.infolist()]
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in records:
            archive.writestr(name, change(name, content))


@pytest.mark.parametrize("damage", ["cut off", "a record cut off", "compressed", "another file", "empty"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    file = write(tmp_path, chunk())
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:-200])
    elif damage == "a record cut off":
        rewritten(file, lambda name, content: content[:-4] if name.endswith("data/0") else content)
    elif damage == "compressed":
        rewritten(file, lambda name, content: content, zipfile.ZIP_DEFLATED)
    else:
        file.write_bytes(b"half of a file" if damage == "another file" else b"")
    with pytest.raises(ValueError, match=r"chunk_0\.pt"):
        opened(tmp_path)


def written_by_hand(file: Path, change: Callable[[str, bytes], bytes], align: int = 64) -> None:
    """The archive anew, every record at a multiple of `align`, as torch writes it."""
    with zipfile.ZipFile(file) as archive:
        records = [(record.filename, archive.read(record)) for record in archive.infolist()]
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records:
            record = zipfile.ZipInfo(name)
            place = archive.fp.tell() + 30 + len(name.encode()) + 4  # type: ignore[union-attr]
            padding = -place % (align or 1)
            record.extra = struct.pack("<HH", 0x4246, padding) + bytes(padding) if align else b""
            archive.writestr(record, change(name, content))


def central_headers(content: bytes) -> dict[str, int]:
    """Where the archive's list tells of each record, by its name without the root."""
    places, place = {}, content.find(b"PK\x01\x02")
    while content[place : place + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack("<HHH", content[place + 28 : place + 34])
        places[content[place + 46 : place + 46 + name].decode().partition("/")[2]] = place
        place += 46 + name + extra + comment
    return places


def in_pickle(spoil: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda file: written_by_hand(file, lambda name, old: spoil(old) if name.endswith("data.pkl") else old)


def in_list(spoil: Callable[[bytearray, dict[str, int]], None]) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        content = bytearray(file.read_bytes())
        spoil(content, central_headers(bytes(content)))
        file.write_bytes(content)

    return change


def one_place_for_two(content: bytearray, list_: dict[str, int]) -> None:
    content[list_["data/3"] + 42 : list_["data/3"] + 46] = content[list_["data/2"] + 42 : list_["data/2"] + 46]


def set_in_list(offset: int, value: bytes) -> Callable[[Path], None]:
    def change(content: bytearray, list_: dict[str, int]) -> None:
        place = list_["data/0"] + offset
        content[place : place + len(value)] = value

    return in_list(change)


def with_byteorder(order: bytes) -> Callable[[Path], None]:
    return lambda file: written_by_hand(file, lambda name, old: order if name.endswith("byteorder") else old)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a memo of many entries": (
        in_pickle(lambda old: old[:2] + b"".join(b"Nr%b0" % struct.pack("<I", n) for n in range(30_000)) + old[2:]),
        "more than 20,000 operations",
    ),
    "lists in lists": (in_pickle(lambda _: b"\x80\x02" + b"]" * 9000 + b"a" * 8999 + b"."), "but list"),
    "tuples in tuples": (in_pickle(lambda _: b"\x80\x02)" + b"\x85" * 19_000 + b"."), "but tuple"),
    "a batch of lists in lists": (
        lambda file: written_by_hand(
            file,
            lambda name, _: (
                (
                    b"\x80\x02ctensordict._reductions\n_make_td\nctensordict._td\nTensorDict\n}(X\x0b\0\0\0_tensordict}"
                    b"X\x0b\0\0\0_batch_size" + b"]" * 9000 + b"a" * 8999 + b"u\x86R."
                )
                if name.endswith("data.pkl")
                else _
            ),
        ),
        "its batch is a list",
    ),
    "records of another alignment": (lambda file: written_by_hand(file, lambda _, old: old, align=0), "no tensor can"),
    "numbers of another machine": (with_byteorder(b"big"), "not little-endian"),
    "an unknown order of bytes": (with_byteorder(b"\xff"), "not little-endian"),
    "two records in one place": (in_list(one_place_for_two), "share memory"),
    "a record longer than the file": (set_in_list(20, struct.pack("<II", 2**31, 2**31)), "more than 8 times"),
    "a record somewhat longer": (set_in_list(20, struct.pack("<II", 9000, 9000)), "cut or damaged"),
    "a record beyond the end": (set_in_list(42, struct.pack("<I", 2**32 - 9)), "not where it should be"),
    "an encrypted record": (set_in_list(8, b"\1"), "cut or damaged"),
    "bytes before it": (lambda file: file.write_bytes(b"M" * 1001 + file.read_bytes()) and None, r"chunk_0\.pt"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_file_is_refused_by_name_at_once(how: str, tmp_path: Path) -> None:
    change, message = HOSTILE[how]
    file = write(tmp_path, chunk())
    change(file)
    with pytest.raises(ValueError, match=message) as raised:
        opened(tmp_path)
    assert "chunk_0.pt" in str(raised.value)
    assert len(str(raised.value)) < 500


def test_records_may_have_any_root(tmp_path: Path) -> None:
    write(tmp_path, chunk(), "chünk \u202e0.pt").rename(tmp_path / "chunk_0.pt")
    assert opened(tmp_path).lengths.tolist() == [5, 5, 5]


def test_a_large_file_is_looked_through_as_rows_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("worldloom_rl.data.stored_episodes._READ_AT_ONCE", 100)
    write(tmp_path, with_value("obs", torch.nan))
    found = opened(tmp_path)
    found.rows(torch.arange(5))
    with pytest.raises(ValueError, match=r"chunk_0\.pt, episode 1, row 2"):
        found.rows(torch.arange(4, 9))
    with pytest.raises(IndexError, match="rows 0 … 14, asked for 3 … 15"):
        found.rows(torch.tensor([3, 15]))


def test_the_digest_tells_other_files(tmp_path: Path) -> None:
    file = write(tmp_path, chunk())
    before = opened(tmp_path).digest()
    assert json.loads(json.dumps(before)) == before == opened(tmp_path).digest()
    write(tmp_path, chunk(episodes=4))
    assert opened(tmp_path).digest() != before
    write(tmp_path, chunk())
    content = bytearray(file.read_bytes())
    content[content.index(b"ZZZZ", 0, 1024)] ^= 1  # between two records, where nothing is read
    file.write_bytes(content)
    assert opened(tmp_path).digest() != before


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    for kind in ("tdmpc2", "newt"):
        with pytest.raises(FileNotFoundError, match=r"holds no files"):
            open_episodes(f"{kind}:{tmp_path}")


def flat(numbers: list[int]) -> TensorDict:
    """A file of newt: rows of episodes with these numbers."""
    rows = chunk(1, len(numbers)).squeeze(0).exclude("task")
    ends = torch.tensor([number != after for number, after in zip(numbers, [*numbers[1:], None], strict=True)])
    rows["terminated"], rows["episode"] = ends, torch.tensor(numbers)
    for first in [0, *(ends.nonzero().squeeze(-1)[:-1] + 1).tolist()]:
        rows["action"][first] = torch.nan
    return rows


def test_newts_episodes_have_their_own_lengths_and_a_task_by_the_files_name(tmp_path: Path) -> None:
    write(tmp_path, flat([4, 4, 4, 7, 7, 5, 5, 5, 5]), "cup-catch.pt")
    write(tmp_path, flat([0, 0]), "walker-walk.pt")
    found = open_episodes(f"newt:{tmp_path}")
    assert found.names == ("cup-catch", "walker-walk")
    assert found.lengths.tolist() == [3, 2, 4, 2]
    assert found.tasks.tolist() == [0, 0, 0, 1]
    rows = found.rows(torch.arange(11))
    assert rows["terminated"].squeeze(-1).nonzero().squeeze(-1).tolist() == [2, 4, 8, 10]
    assert not rows["truncated"].any()
    write(tmp_path, flat([0, 0, 1, 1, 0]), "walker-walk.pt")
    with pytest.raises(ValueError, match=r"walker-walk\.pt: the rows of episode 0 do not stand together"):
        open_episodes(f"newt:{tmp_path}")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells its memory on Linux")
def test_what_is_drawn_from_large_files_does_not_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sparse file of 370 MB: without giving pages back, 20 batches would keep some 200 MB of it."""
    monkeypatch.setattr("worldloom_rl.data.stored_episodes._READ_AT_ONCE", 100)
    episodes, rows = 20_000, 101
    leaves = {name: torch.empty(episodes, rows, width) for name, width in (("obs", 39), ("action", 6))}
    tasks = torch.empty(episodes, rows, dtype=torch.int32)
    with skip_data():
        write(tmp_path, TensorDict({**leaves, "reward": torch.empty(episodes, rows), "task": tasks}, [episodes, rows]))
    del leaves, tasks

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    windows = Windows(opened(tmp_path), window=4, batch_size=512, generator=torch.Generator().manual_seed(0))
    windows.sample()
    before = resident()
    for _ in range(20):
        windows.sample()
    assert resident() - before < 40e6
