"""Datasets in the form of LeRobot, both versions, written here as the format's description says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from worldloom_rl.data import Episodes, open_episodes
from worldloom_rl.data.lerobot_recording import LeRobotRecording

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

torch.set_num_threads(1)
LENGTHS = (4, 3, 5)
TASKS = ("open the drawer", "close it", "open the drawer")


def columns(episode: int, frames: int, first: int, *, reward: bool, stills: bool) -> dict[str, Any]:
    """One episode, whose numbers tell its steps."""
    step = np.arange(frames, dtype=np.float32)
    found: dict[str, Any] = {
        "observation.state": pyarrow.array([[float(number), 7.0] for number in step], pyarrow.list_(pyarrow.float32())),
        "action": pyarrow.array([[float(number) / 8] for number in step], pyarrow.list_(pyarrow.float32(), 1)),
        "episode_index": np.full(frames, episode),
        "frame_index": np.arange(frames),
        "timestamp": step / 10,
        "index": first + np.arange(frames),
        "task_index": np.full(frames, {"open the drawer": 3, "close it": 0}[TASKS[episode]]),
    }
    if reward:
        found["next.reward"] = step + 1
        found["next.done"] = step == frames - 1
    if stills:
        images = [{"bytes": iio.imwrite("<bytes>", still(number), extension=".png"), "path": ""} for number in step]
        found["observation.image"] = pyarrow.array(images)
    return found


def still(step: float) -> np.ndarray:
    image = np.zeros((8, 6, 3), np.uint8)
    image[..., 0], image[:4, :, 1] = int(step), 200
    return image


def write(
    folder: Path, version: str, *, reward: bool = False, stills: bool = False, lengths: Sequence[int] = LENGTHS
) -> Path:
    """A dataset of version 2 (a file an episode, tasks as lines) or 3 (all in two files, tasks as a table)."""
    firsts = np.cumsum([0, *lengths[:-1]])
    tables = [
        pyarrow.table(columns(episode, frames, first, reward=reward, stills=stills))
        for episode, (frames, first) in enumerate(zip(lengths, firsts, strict=True))
    ]
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    if version == "v3.0":
        parquet.write_table(pyarrow.concat_tables(tables[:2]), folder / "data/chunk-000/file-000.parquet")
        parquet.write_table(tables[2], folder / "data/chunk-000/file-001.parquet")
        words = pyarrow.table({"task_index": [0, 3], "__index_level_0__": ["close it", "open the drawer"]})
        parquet.write_table(words, folder / "meta/tasks.parquet")
    else:
        for episode, table in enumerate(tables):
            parquet.write_table(table, folder / f"data/chunk-000/episode_{episode:06d}.parquet")
        lines = [{"task_index": 0, "task": "close it"}, {"task_index": 3, "task": "open the drawer"}]
        (folder / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    kinds = {"observation.state": "float32", "action": "float32", "observation.image": "image"}
    features = {name: {"dtype": kinds.get(name, "int64"), "shape": [1]} for name in tables[0].column_names}
    info = {"codebase_version": version, "fps": 10, "total_frames": sum(lengths), "features": features}
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


def all_rows(episodes: Episodes) -> TensorDict:
    return episodes.rows(torch.arange(int(episodes.lengths.sum())))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_rows_are_those_of_the_tables(version: str, tmp_path: Path) -> None:
    episodes = open_episodes(f"lerobot:{write(tmp_path / 'd', version)}")
    steps = [step for length in LENGTHS for step in range(length)]
    rows = all_rows(episodes)
    assert episodes.lengths.tolist() == list(LENGTHS)
    assert rows["observation"].tolist() == [[step, 7.0] for step in steps]
    assert rows["previous_action"].flatten().tolist() == [max(0, step - 1) / 8 for step in steps]
    assert not rows["reward"].any()
    assert episodes.names == ("close it", "open the drawer")
    assert rows["task"].tolist() == [1] * 4 + [0] * 3 + [1] * 5
    assert open_episodes(f"lerobot:{tmp_path / 'd'}", ["open the drawer"]).lengths.tolist() == [4, 5]
    assert json.loads(json.dumps(episodes.digest())) == episodes.digest()


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_the_reward_of_the_last_action_counts(version: str, tmp_path: Path) -> None:
    episodes = open_episodes(f"lerobot:{write(tmp_path / 'd', version, reward=True)}")
    rows = all_rows(episodes)
    assert episodes.lengths.tolist() == [5, 4, 6]
    assert rows["reward"].flatten().tolist() == [step for length in (5, 4, 6) for step in range(length)]
    assert rows["observation"][:5, 0].tolist() == [0, 1, 2, 3, 3]  # the last one is not shown: it stands twice
    assert rows["terminated"].flatten().nonzero().flatten().tolist() == [4, 8, 14]


@pytest.mark.parametrize("size", [None, 4])
def test_images_in_the_tables_are_decoded(size: int | None, tmp_path: Path) -> None:
    episodes = open_episodes(f"lerobot:{write(tmp_path / 'd', 'v3.0', stills=True)}", image_size=size)
    pixels = all_rows(episodes)["pixels"]
    shape = (3, 8, 6) if size is None else (3, 4, 4)
    assert episodes.observation_spec["pixels"].shape == shape
    assert pixels.shape == (12, *shape)
    assert pixels[:, 0, 0, 0].tolist() == [step for length in LENGTHS for step in range(length)]
    assert pixels[0, 1, :, 0].tolist() == ([200] * 4 + [0] * 4 if size is None else [200] * 2 + [0] * 2)


def with_videos(folder: Path, version: str) -> Path:
    """The dataset with a camera whose frames get lighter with each step."""
    write(folder, version)
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.top"] = {"dtype": "video", "shape": [32, 32, 3]}
    (folder / "meta/info.json").write_text(json.dumps(info))
    episodes = [np.stack([np.full((32, 32, 3), 20 * step, np.uint8) for step in range(frames)]) for frames in LENGTHS]
    if version == "v3.0":
        place = folder / "videos/observation.images.top/chunk-000"
        place.mkdir(parents=True)
        iio.imwrite(place / "file-000.mp4", np.concatenate(episodes[:2]), plugin="pyav", codec="libx264", fps=10)
        iio.imwrite(place / "file-001.mp4", episodes[2], plugin="pyav", codec="libx264", fps=10)
        (folder / "meta/episodes/chunk-000").mkdir(parents=True)
        name = "videos/observation.images.top"
        places = {f"{name}/chunk_index": [0, 0, 0], f"{name}/file_index": [0, 0, 1]}
        times = {f"{name}/from_timestamp": [0.0, LENGTHS[0] / 10, 0.0]}
        table = pyarrow.table({"episode_index": [0, 1, 2], **places, **times})
        parquet.write_table(table, folder / "meta/episodes/chunk-000/file-000.parquet")
    else:
        place = folder / "videos/chunk-000/observation.images.top"
        place.mkdir(parents=True)
        for number, frames in enumerate(episodes):
            iio.imwrite(place / f"episode_{number:06d}.mp4", frames, plugin="pyav", codec="libx264", fps=10)
    return folder


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_videos_are_decoded(version: str, tmp_path: Path) -> None:
    pytest.importorskip("av")
    episodes = open_episodes(f"lerobot:{with_videos(tmp_path / 'd', version)}")
    expected = torch.tensor([20.0 * step for length in LENGTHS for step in range(length)])
    assert episodes.observation_spec["top"].shape == (3, 32, 32)
    seen = all_rows(episodes)["top"].float().mean((1, 2, 3))
    assert (seen - expected).abs().max() < 4  # videos are not lossless
    back = episodes.rows(torch.tensor([9, 3, 8, 4]))["top"].float().mean((1, 2, 3))
    assert (back - expected[[9, 3, 8, 4]]).abs().max() < 4
    next((tmp_path / "d" / "videos").rglob("*.mp4")).write_bytes(b"half of a video")
    with pytest.raises((ValueError, OSError), match=r"\.mp4"):
        all_rows(open_episodes(f"lerobot:{tmp_path / 'd'}"))


def test_what_is_missing_or_broken_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write(tmp_path / "d", "v3.0")
    source, info = f"lerobot:{folder}", folder / "meta/info.json"
    told = json.loads(info.read_text())
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere/meta/info\.json"):
        open_episodes(f"lerobot:{tmp_path / 'nowhere'}")
    for change, message in (
        ({"codebase_version": "v1.6"}, "version v1.6; versions 2.x and 3.x can be read"),
        ({"total_frames": 99}, "speaks of 99 frames, data/ holds 12"),
        (
            {"features": {**told["features"], "observation.x": {}}},
            r"file-000\.parquet lacks the columns \['observation.x'\]",
        ),
        ({"features": {"action": {}}}, r"has no feature 'episode_index'"),
    ):
        info.write_text(json.dumps({**told, **change}))
        with pytest.raises(ValueError, match=message):
            open_episodes(source)
    info.write_text(json.dumps(told))
    table = parquet.read_table(folder / "data/chunk-000/file-001.parquet")
    file = folder / "data/chunk-000/file-001.parquet"
    parquet.write_table(table.slice(1), file)
    info.write_text(json.dumps({**told, "total_frames": 11}))
    with pytest.raises(ValueError, match="episode 2 lacks frames, or has them out of order: frame 1 stands in place 0"):
        open_episodes(source)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"file-001\.parquet cannot be read as parquet"):
        open_episodes(source)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"LeRobot datasets need pyarrow: pip install 'worldloom-rl\[lerobot\]'"):
        open_episodes(source)


def test_a_dataset_with_videos_says_what_decodes_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write(tmp_path / "d", "v2.1")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.top"] = {"dtype": "video", "shape": [8, 8, 3]}
    (folder / "meta/info.json").write_text(json.dumps(info))
    monkeypatch.setattr("worldloom_rl.data.lerobot_cameras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"'observation\.images\.top' is kept as videos.*pip install"):
        open_episodes(f"lerobot:{folder}")


def changed(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Path], Any]:
    """Changes a column of the first table."""

    def change_file(folder: Path) -> None:
        file = folder / "data/chunk-000/file-000.parquet"
        table = parquet.read_table(file)
        column = pyarrow.array(change(table[name].to_pylist()))
        parquet.write_table(table.set_column(table.column_names.index(name), name, column), file)

    return change_file


def emptied(folder: Path) -> None:
    file = folder / "data/chunk-000/file-000.parquet"
    parquet.write_table(parquet.read_table(file).slice(0, 0), file)


def told(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "meta/info.json").write_text(text)


def twice(folder: Path) -> None:
    file = folder / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    parquet.write_table(table.append_column("action", table["action"]), file)


def piped(folder: Path) -> None:
    os.mkfifo(folder / "data/chunk-000/file-009.parquet")


def swollen(folder: Path) -> None:
    """A column of a thousand times what the file's bytes could tell apart."""
    flags = pyarrow.table({"next.done": np.zeros(4_000_000, bool)})
    parquet.write_table(flags, folder / "data/chunk-000/file-000.parquet", compression="zstd")


def third(value: object) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:2], value, *values[3:]]


def png(*shape: int) -> dict[str, Any]:
    return {"bytes": iio.imwrite("<bytes>", np.zeros(shape, np.uint8), extension=".png"), "path": ""}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed("observation.state", third([float("nan"), 1.0])), "row 2 of 'observation.state' is not finite"),
        (changed("action", third([float("inf")])), "row 2 of 'action' is not finite"),
        (changed("next.reward", third(float("nan"))), "episode 0, row 3: 'reward' is not finite"),
        (changed("episode_index", lambda values: [value + 0.5 for value in values]), "'episode_index' must be whole"),
        (changed("task_index", third(0)), r"episode 0 is of several tasks: \[0, 3\]"),
        (emptied, "file-000.parquet holds no rows"),
        (told("[1]"), "does not describe a LeRobot dataset"),
        (told('{"codebase_version": "v3.0", "features": {"action": 1}}'), "does not describe a LeRobot dataset"),
        (told("[" * 100_000), "info.json is no JSON"),
        (changed("observation.image", third(png(4, 4, 3))), r"images of \[3, 4, 4\] in row 2, but \[3, 8, 6\] before"),
        (
            changed("observation.image", third({"bytes": png(8, 6, 3)["bytes"][:30], "path": ""})),
            "row 2 of .* is no image",
        ),
        (changed("observation.image", third(None)), "row 2 of .* is no image"),
        (
            changed("next.done", lambda values: [True, *values[1:]]),
            "episode 0 has 4 frames, and 'next.done' in frame 0",
        ),
        (changed("next.done", lambda values: ["no"] * len(values)), "'next.done' must be one number a row, got string"),
        (changed("action", third([1.0, 2.0])), "'action' must be real numbers, as many in each row"),
        (twice, r"file-000.parquet has the columns \['action'\] twice"),
        (piped, "file-009.parquet is no regular file"),
        (swollen, "file-000.parquet would have 4,000,000 numbers in a column, more than its bytes tell apart"),
        (changed("observation.image", lambda rows: [{"path": "a.png"}] * len(rows)), "it is NoneType, not the bytes"),
        (changed("observation.image", lambda rows: ["http://localhost/a.png"] * len(rows)), "it is str, not the bytes"),
    ],
)
def test_damage_in_the_middle_is_named(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "v3.0", reward=True, stills=True)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        all_rows(LeRobotRecording(folder))


def test_a_terminal_state_that_is_shown_stands_once(tmp_path: Path) -> None:
    """As in the published pusht, whose flags stand in the last two frames: no action leads on from the last one."""
    folder = write(tmp_path / "data", "v3.0", reward=True)
    changed("next.done", lambda values: [False, False, True, True, *values[4:]])(folder)
    episodes = open_episodes(f"lerobot:{folder}")
    rows = all_rows(episodes)
    assert episodes.lengths.tolist() == [4, 4, 6]
    assert rows["observation"][:4, 0].tolist() == [0, 1, 2, 3]
    assert rows["reward"][:5].flatten().tolist() == [0, 1, 2, 3, 0]
    assert rows["terminated"].flatten().nonzero().flatten().tolist() == [3, 7, 13]


def test_names_of_tasks_that_are_no_text_are_refused_by_their_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "v2.1")
    for content, said in ((b"\xff\xfe", "is no text"), (b'{"task_index": 1e999, "task": 1}', "does not name tasks")):
        (folder / "meta/tasks.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=rf"tasks\.jsonl {said}"):
            LeRobotRecording(folder)


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), -1.0])
def test_a_place_of_a_video_that_is_no_number_is_refused_by_its_file(
    wrong: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("worldloom_rl.data.lerobot_cameras.find_spec", lambda name: object())
    folder = write(tmp_path / "d", "v3.0")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.top"] = {"dtype": "video", "shape": [8, 8, 3]}
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    places = {"chunk_index": [0] * 3, "file_index": [0] * 3, "from_timestamp": [0.0, wrong, 0.0]}
    told = {f"videos/observation.images.top/{name}": column for name, column in places.items()}
    parquet.write_table(
        pyarrow.table({"episode_index": [0, 1, 2], **told}), folder / "meta/episodes/chunk-000/file-000.parquet"
    )
    with pytest.raises(ValueError, match=r"file-000\.parquet does not say where the videos of .* below 0 or none"):
        LeRobotRecording(folder)


def test_a_task_that_is_named_twice_in_other_words_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "v2.1")
    with (folder / "meta/tasks.jsonl").open("a") as file:
        file.write('{"task_index": 3, "task": "something else"}\n')
    with pytest.raises(ValueError, match=r"tasks\.jsonl names the task 3 twice"):
        LeRobotRecording(folder)


def test_images_are_bit_for_bit_those_that_were_written(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (7, 8, 6, 3), dtype=np.uint8)
    images = [{"bytes": iio.imwrite("<bytes>", image, extension=".png"), "path": ""} for image in random]
    folder = write(tmp_path / "data", "v3.0", reward=True, stills=True)
    changed("observation.image", lambda _: images)(folder)
    seen = all_rows(LeRobotRecording(folder))["pixels"][:9].movedim(1, -1).numpy()
    last = LENGTHS[0]  # the last frame of an episode stands twice, behind the reward of its action
    expected = np.concatenate([random[:last], random[last - 1 : last], random[last:], random[-1:]])
    assert np.array_equal(seen, expected)
