"""The official loader and sampler of TD-MPC2's offline trainer: numbers of rows, draws of windows and batches, exactly.

Files of the same layout in $WORLDLOOM_REFERENCE_DIR/tdmpc2_offline, in its tdmpc2/offline or in itself take the place
of tests/reference/data/tdmpc2_offline.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from worldloom_rl.data import Episodes, Windows
from worldloom_rl.data.newt_files import open_newt
from worldloom_rl.data.tdmpc2_chunks import open_chunks
from worldloom_rl.data.windows import ByEpisode

FILE = "golden_offline.safetensors"
_BASE = Path(os.environ.get("WORLDLOOM_REFERENCE_DIR", Path(__file__).parent / "data"))
_PLACES = (_BASE / "tdmpc2_offline", _BASE / "tdmpc2" / "offline", _BASE)
ROOT = next((place for place in _PLACES if (place / FILE).is_file()), _PLACES[0])
UPDATES = {"update0": "data", "update1": "data", "update2": "data", "update_now": "data_now"}

torch.set_num_threads(1)


@cache
def golden(prefix: str) -> dict[str, Tensor]:
    """The golden tensors under a prefix, by what stands behind it."""
    with safe_open(ROOT / FILE, "pt") as file:
        names = [name for name in file.keys() if name.startswith(f"{prefix}/")]  # noqa: SIM118 - no mapping
        return {name.removeprefix(f"{prefix}/"): file.get_tensor(name) for name in names}


@cache
def settings() -> dict[str, str]:
    with safe_open(ROOT / FILE, "pt") as file:
        return dict(file.metadata())


@cache
def episodes(folder: str) -> Episodes:
    return open_chunks(ROOT / folder, json.loads(settings()["tasks"]))


def window() -> int:
    return int(json.loads(settings()["cfg"])["horizon"]) + 1


@pytest.mark.parametrize("folder", ["data", "data_now"])
def test_rows_are_numbered_as_the_official_loader_does(folder: str) -> None:
    expected = golden("load")["episode"]
    found, _ = episodes(folder).places(torch.arange(len(expected)))
    assert torch.equal(found, expected.long())
    assert int(episodes(folder).lengths.sum()) == len(expected)
    assert list(episodes(folder).names) == json.loads(settings()["tasks"])


def test_windows_are_drawn_by_the_official_law() -> None:
    drawn = golden("windows")
    law = ByEpisode(episodes("data").lengths, window())
    for traj, start, index in zip(drawn["rng_traj"], drawn["rng_start"], drawn["index"], strict=True):
        rows = law.first_rows(traj.long(), start).unsqueeze(-1) + torch.arange(window())
        assert torch.equal(rows.flatten(), index.flatten().long())


@pytest.mark.parametrize(("update", "folder"), UPDATES.items())
def test_a_batch_is_the_official_one(update: str, folder: str) -> None:
    numbers = golden(update)
    windows = Windows(episodes(folder), window(), len(numbers["rng_traj"]))
    first = ByEpisode(episodes(folder).lengths, window()).first_rows(numbers["rng_traj"].long(), numbers["rng_start"])
    batch = windows.episodes.rows(first.unsqueeze(-1) + torch.arange(window()))
    assert torch.equal(batch["observation"].transpose(0, 1), numbers["obs"])
    for name, key in (("action", "previous_action"), ("reward", "reward"), ("terminated", "terminated")):
        assert torch.equal(batch[key][:, 1:].transpose(0, 1).float(), numbers[name]), name
    assert torch.equal(batch["task"], numbers["task"].long().unsqueeze(-1).expand(-1, window()))


def test_both_layouts_hold_the_same_episodes() -> None:
    every = torch.arange(len(golden("load")["episode"]))
    before, now = (episodes(folder).rows(every) for folder in ("data", "data_now"))
    for key in ("observation", "previous_action", "reward", "is_init", "task"):
        assert torch.equal(before[key], now[key]), key
    assert not before["terminated"].any()
    assert now["terminated"].any()
    assert torch.equal(now["truncated"], before["truncated"] & ~now["terminated"])
    assert not now["previous_action"][now["is_init"].squeeze(-1)].any()


def test_newts_rows_are_grouped_by_their_episode() -> None:
    for found in open_newt(ROOT / "data_newt"):
        rows = found.rows(torch.arange(int(found.lengths.sum())))
        assert rows["is_init"].sum() == len(found.lengths)
        assert rows["previous_action"].isfinite().all()
        assert found.names == (Path(found.source).stem,)
