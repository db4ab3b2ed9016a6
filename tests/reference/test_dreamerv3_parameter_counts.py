"""Learned parameters of the DreamerV3 presets: the counts that the official code gives, in all and of each module.

They are in data/dreamerv3/param_counts.jsonl, as in shared/reference/dreamerv3.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.dreamerv3.config import PRESETS

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "dreamerv3" / "param_counts.jsonl").read_text().splitlines()
]


def image(size: int, channels: int) -> Composite:
    return Composite(pixels=Bounded(0, 255, shape=(channels, size, size), dtype=torch.uint8))


WALKER = Composite(orientations=Unbounded((14,)), height=Unbounded(()), velocity=Unbounded((9,)))
SIX_REAL = Composite(action=Bounded(-1.0, 1.0, shape=(6,), dtype=torch.float32))
SPECS = {
    "image64_cont6": (image(64, 3), SIX_REAL),
    "walker_proprio_cont6": (WALKER, SIX_REAL),
    "atari96gray_disc18": (image(96, 1), Composite(action=Categorical(18, shape=(), dtype=torch.int64))),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_official_size_is_a_preset_and_counted_for_images_and_vectors() -> None:
    sizes = set(PRESETS) - {"tiny"}
    assert {(row["config"], row["size"]) for row in ROWS} == {(config, size) for config in SPECS for size in sizes}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['config']}-{row['size']}")
def test_parameters(row: dict[str, int]) -> None:
    with torch.device("meta"):
        model = DreamerV3(PRESETS[row["size"]], *SPECS[row["config"]])
    modules = {
        "enc": model.encoder,
        "dyn": model.rssm,
        "dec": model.decoder,
        "rew": model.reward_head,
        "con": model.continue_head,
        "pol": model.behavior.actor,
        "val": model.behavior.critic,
        "slowval_extra": model.behavior.slow_critic,
    }
    assert {name: count(module) for name, module in modules.items()} == {name: row[name] for name in modules}
    assert model.num_parameters() == row["total"]
