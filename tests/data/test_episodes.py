"""Recorded episodes behind one door: joined tasks, windows by either law, replays of our own runs, filling a replay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import NestedKey, TensorDict
from torchrl.data import Bounded, Composite, OneHot, Unbounded

from worldloom_rl.data import Arrivals, Episodes, Replay, Windows, join, open_episodes
from worldloom_rl.data.filling import fill
from worldloom_rl.data.recording import Excerpt, Recording
from worldloom_rl.data.run_episodes import open_run
from worldloom_rl.data.windows import ByEpisode, ByWindow

torch.set_num_threads(1)
RUN = Path(__file__).parents[1] / "saved_by_0_6" / "run-tdmpc2"


class Told(Recording):
    """Episodes whose every number tells its step: observation width·[step], action A·[step + 1], reward step + 1."""

    def __init__(
        self, lengths: Sequence[int], width: int = 2, low: float = -1.0, high: float = 1.0, names: Sequence[str] = ()
    ) -> None:
        observation = Composite({"observation": Unbounded((width,))})
        action = Composite({"action": Bounded(low, high, shape=(width - 1,), dtype=torch.float32)})
        super().__init__("told", observation, action, lengths, names=names)

    def read(self, episode: int, start: int, stop: int) -> Excerpt:
        step = torch.arange(start, stop + 1, dtype=torch.float32)
        width = self.observation_spec["observation"].shape[0]
        return Excerpt(
            {"observation": step.unsqueeze(-1).expand(-1, width)},
            {"action": step[1:].unsqueeze(-1).expand(-1, width - 1)},
            step[1:],
            terminated=episode == 1,
        )

    def files(self) -> list[Path]:
        return []


def all_rows(episodes: Episodes) -> TensorDict:
    return episodes.rows(torch.arange(int(episodes.lengths.sum())))


def equal(one: TensorDict, other: TensorDict) -> bool:
    keys: set[NestedKey] = set(one.keys(True, True))
    return keys == set(other.keys(True, True)) and all(torch.equal(one[key], other[key]) for key in keys)


def test_rows_are_observations_with_what_led_to_them_however_they_are_asked_for() -> None:
    told = Told([3, 4])
    rows = all_rows(told)
    assert rows["observation"][:, 0].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert rows["previous_action"][:, 0].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert rows["reward"][:, 0].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert rows["is_init"].flatten().nonzero().flatten().tolist() == [0, 3]
    assert rows["truncated"].flatten().nonzero().flatten().tolist() == [2]
    assert rows["terminated"].flatten().nonzero().flatten().tolist() == [6]
    assert equal(all_rows(told.kept()), rows)
    index = torch.tensor([[6, 0, 1], [1, 4, 5], [2, 3, 3]])
    for episodes in (told, told.kept()):
        assert episodes.rows(index).shape == (3, 3)
        assert equal(episodes.rows(index).reshape(-1), rows[index.flatten()])
    with pytest.raises(IndexError, match="told has rows 0 … 6, asked for 7"):
        told.rows(torch.tensor([7]))


def test_tasks_of_other_widths_and_bounds_are_brought_to_one_form() -> None:
    joined = join(
        [Told([3], width=2, low=-4, high=4, names=["dmc:a"]), Told([2, 2], width=4, low=0, high=4, names=["b"])]
    )
    assert joined.names == ("dmc:a", "b")
    assert joined.observation_spec["observation"].shape == (4,)
    assert joined.observation_spec["task"].n == 2
    assert joined.action_spec["action"] == Bounded(-1, 1, shape=(3,), dtype=torch.float32)
    for episodes in (joined, joined.kept()):
        rows = all_rows(episodes)
        assert rows["task"].tolist() == [0, 0, 0, 1, 1, 1, 1]
        assert rows["observation"][2].tolist() == [2, 2, 0, 0]
        assert rows["previous_action"].tolist() == [[0, 0, 0], [0.25, 0, 0], [0.5, 0, 0], *2 * [[0] * 3, [-0.5] * 3]]
    turned = join([joined], ["b", "a"])
    assert turned.tasks.tolist() == [1, 0, 0]
    assert json.loads(json.dumps(joined.digest()))["names"] == ["dmc:a", "b"]


def test_episodes_of_one_task_keep_their_form_and_may_come_from_several_sources() -> None:
    one = Told([3], low=-4, high=4, names=["a"])
    assert join([one]) is one
    both = join([one, Told([2], low=-4, high=4, names=["x:a"])])
    assert both.names == ("a",)
    assert both.action_spec == one.action_spec
    assert all_rows(both)["previous_action"].flatten().tolist() == [0, 1, 2, 0, 1]
    assert "task" not in all_rows(both).keys()  # noqa: SIM118 - a TensorDict


class Discrete(Told):
    def __init__(self) -> None:
        super().__init__([2], names=["c"])
        self.action_spec = Composite({"action": OneHot(2)})


def test_more_than_fits_into_memory_is_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal:  9 kB\nMemAvailable:  1 kB\n")
    monkeypatch.setattr("worldloom_rl.data.recording._MEMORY", memory)
    assert len(all_rows(Told([3]).kept())) == 3
    with pytest.raises(ValueError, match=r"told takes 0\.0 GB in memory, and 0\.0 GB are free: learn from fewer"):
        Told([100]).kept()
    monkeypatch.setattr("worldloom_rl.data.recording._MEMORY", tmp_path / "nowhere")
    assert len(all_rows(Told([3]).kept())) == 3


def test_all_of_a_source_may_be_given_one_name() -> None:
    told = Told([3, 2], names=["open it", "close it"])
    assert "task" in told.observation_spec.keys()  # noqa: SIM118
    told.name_all("drawer")
    assert told.names == ("drawer",)
    assert "task" not in told.observation_spec.keys()  # noqa: SIM118
    assert "task" not in all_rows(told.kept())
    with pytest.raises(ValueError, match=r"no episode of the task 'x:draw' in told.*'drawer'.*give that as x:draw="):
        join([told], ["x:draw"])


def test_what_cannot_be_one_set_is_named() -> None:
    a, unnamed = Told([3], names=["a"]), Told([3])
    with pytest.raises(ValueError, match="Nobody says which task told is of: give it as NAME=told"):
        join([a, unnamed])
    with pytest.raises(ValueError, match="which of the tasks told is of: give it as NAME=told"):
        join([unnamed], ["a", "b"])
    with pytest.raises(ValueError, match="no episode of the task 'b' in told"):
        join([a], ["a", "b"])
    with pytest.raises(ValueError, match="different names"):
        join([a], ["a", "dmc:a"])
    with pytest.raises(ValueError, match="discrete actions"):
        join([a, Discrete()])
    with pytest.raises(ValueError, match="'observation' is"):
        join([a, Told([3], width=3, names=["a"])])
    pixels = Told([3], names=["b"])
    pixels.observation_spec = Composite({"pixels": Bounded(0, 255, shape=(3, 8, 8), dtype=torch.uint8)})
    with pytest.raises(ValueError, match="same names"):
        join([a, pixels])


def test_windows_stay_in_episodes_by_one_law_and_cross_them_by_the_other() -> None:
    told = Told([2, 5, 3, 9])
    windows = Windows(told, window=3, batch_size=4000, generator=torch.Generator().manual_seed(0))
    batch = windows.sample()
    assert batch.shape == (4000, 3)
    assert not batch["is_init"][:, 1:].any()
    counts = torch.bincount(batch["observation"][:, 0, 0].long(), minlength=7)
    expected = 4000 / 3 * torch.tensor([1 / 3 + 1 + 1 / 7, 1 / 3 + 1 / 7, 1 / 3 + 1 / 7, *[1 / 7] * 4])
    assert (counts - expected).abs().max() < 5 * expected.max().sqrt()
    across = Windows(told, 3, 4000, torch.Generator().manual_seed(0), law=ByWindow).sample()
    assert across["is_init"][:, 1:].any()
    firsts = ByWindow(told.lengths, 3).draw(4000, torch.Generator().manual_seed(0))
    assert set(firsts.tolist()) == set(range(17))
    with pytest.raises(ValueError, match="No episode has the 10 rows of a window; the longest has 9"):
        Windows(told, 10, 1)
    with pytest.raises(ValueError, match="19 rows in all are fewer than the 20"):
        Windows(told, 20, 1, law=ByWindow)


def test_the_last_window_of_a_very_long_episode_is_inside_it() -> None:
    law = ByEpisode(torch.tensor([2**27]), 4)
    nearly_one = torch.tensor([1 - 2**-24])
    assert int(law.first_rows(torch.tensor([0]), nearly_one)) + 3 < 2**27


def test_a_run_s_replay_is_its_episodes(tmp_path: Path) -> None:
    """A run that version 0.6 saved: 86 rows, in one stream or several, the last episodes unfinished."""
    found = open_episodes(str(RUN))
    rows = all_rows(found)
    config = json.loads((RUN / "config.json").read_text())["config"]
    assert found.names == (config["env"],)
    assert len(rows) == 86
    assert rows["is_init"].sum() == len(found.lengths)
    ends = rows["terminated"] | rows["truncated"]
    assert ends.flatten().nonzero().flatten().tolist() == (found.ends - 1).tolist()
    assert not rows["previous_action"][rows["is_init"].flatten()].any()
    assert (rows["reward"][~rows["is_init"]] != 0).any()
    named = open_episodes(f"swing={RUN}")
    assert named.names == ("swing",)
    assert equal(all_rows(named), rows)


def written(folder: Path, rows: TensorDict, capacity: int = 100) -> Path:
    """A run whose replay took these rows."""
    run = folder / "run"
    shutil.copytree(RUN, run)
    replay = Replay(capacity=capacity, window=2, batch_size=1, by="window")
    for row in rows.split(1):
        replay.extend(row)
    target = next((run / "checkpoints").iterdir()) / "replay"
    shutil.rmtree(target)
    replay.save(target)
    return run


def streams(lengths: Sequence[int], number: int) -> TensorDict:
    """Rows of several streams in turn, as environments side by side give them; each observation tells its place."""
    rows = []
    steps = [[step for length in lengths for step in range(length)] for _ in range(number)]
    for place in range(len(steps[0])):
        for stream in range(number):
            step = steps[stream][place]
            last = place + 1 < len(steps[0]) and steps[stream][place + 1] == 0
            rows.append((stream, step, last))
    stream, step, last = (torch.tensor(column) for column in zip(*rows, strict=True))
    return TensorDict(
        {
            "observation": torch.stack([stream, step, torch.zeros_like(step)], -1).float(),
            "previous_action": step.unsqueeze(-1).float(),
            "reward": step.unsqueeze(-1).float(),
            "terminated": torch.zeros(len(rows), 1, dtype=torch.bool),
            "truncated": last.unsqueeze(-1),
            "is_init": (step == 0).unsqueeze(-1),
            ("replay", "stream"): stream,
        },
        batch_size=[len(rows)],
    )


def test_streams_are_untangled_and_beginnings_that_are_gone_do_not_matter(tmp_path: Path) -> None:
    run = written(tmp_path, streams([3, 4, 2], 2), capacity=14)  # of 18 rows the first 4 are gone
    found = open_run(run)
    assert found.lengths.tolist() == [4, 2, 4, 2]  # the single rows that are left of the first episodes lead nowhere
    rows = all_rows(found)
    assert rows["observation"][:, :2].tolist() == [[stream, step] for stream in (0, 1) for step in (0, 1, 2, 3, 0, 1)]
    assert rows["reward"].flatten().tolist() == [0, 1, 2, 3, 0, 1] * 2
    run = written(tmp_path / "again", streams([5, 4], 1), capacity=7)
    rows = all_rows(open_run(run))
    assert rows["observation"][:, 1].tolist() == [2, 3, 4, 0, 1, 2, 3]
    assert rows["is_init"].flatten().tolist() == [True, False, False, True, False, False, False]
    assert rows["reward"].flatten().tolist() == [0, 3, 4, 0, 1, 2, 3]  # what led to row 2 is not known any more


def test_a_run_without_a_replay_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    replay = next((run / "checkpoints").iterdir()) / "replay"
    rows = next(replay.glob("rows-*"))
    content = bytearray(rows.read_bytes())
    content[-1] ^= 1
    rows.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{rows.name} is damaged"):
        open_episodes(str(run))
    rows.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{rows.name} is missing"):
        open_episodes(str(run))
    manifest = json.loads((replay / "manifest.json").read_text())
    manifest["files"]["rows"][0]["file"] = "../learning.pt"
    (replay / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"lists '\.\./learning\.pt', which is no file beside it"):
        open_episodes(str(run))
    shutil.rmtree(replay)
    with pytest.raises(FileNotFoundError, match="no checkpoint with a replay"):
        open_episodes(str(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows["observation"][4].fill_(torch.nan), "episode 1, row 1: 'observation' is not finite"),
        (lambda rows: rows["previous_action"][4].fill_(torch.inf), "row 1: 'previous_action' is not finite"),
        (
            lambda rows: rows.set("observation", rows["observation"].double()),
            r"\[3\] torch.float64, but the model .*float32",
        ),
        (
            lambda rows: rows.set("observation", torch.zeros(7, 4)),
            r"'observation' as \[4\] torch.float32, but the model",
        ),
        (
            lambda rows: rows.set("previous_action", torch.zeros(7, 2)),
            r"takes 'action' as \[1\], its replay holds \[2\]",
        ),
        (lambda rows: rows.pop("reward"), r"holds no \('reward',\), only"),
    ],
)
def test_rows_that_no_run_could_have_learned_from_are_named(
    change: Callable[[TensorDict], Any], message: str, tmp_path: Path
) -> None:
    rows = streams([3, 4], 1)
    change(rows)
    with pytest.raises(ValueError, match=message):
        all_rows(open_run(written(tmp_path, rows)))


def test_latents_of_recorded_rows_are_zeros_in_a_replay() -> None:
    replay = Replay(capacity=20, window=3, batch_size=2, by="window")
    arrivals = Arrivals(["observation"], latent_keys=[("latent", "state")])
    told = Told([3, 4])
    latent_spec = Composite({"state": Unbounded((5,))})
    fill(replay, arrivals, told, [1, 0], latent_spec)
    entries = replay.entries("observation", ("latent", "state"))
    assert entries["observation"][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert entries["latent", "state"].shape == (7, 5)
    assert not entries["latent", "state"].any()
    with pytest.raises(KeyError, match="has no \\['pixels'\\]"):
        fill(replay, Arrivals(["pixels"]), told, [0])
