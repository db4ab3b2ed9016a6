"""Learned parameters of the TD-MPC2 presets: the counts that the official code gives (reference/tdmpc2/spec.md, 2)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.models.tdmpc2.config import PRESETS

SINGLE = {"1m": 1_218_491, "5m": 4_964_458, "19m": 18_077_802, "48m": 47_235_178, "317m": 312_656_857}
MT30 = {"1m": 1_426_427, "5m": 5_241_066, "19m": 16_031_210, "48m": 48_242_410, "317m": 317_316_889}
MT80 = {"1m": 1_435_067, "5m": 5_389_930, "19m": 18_970_218, "48m": 48_791_146, "317m": 317_383_129}


def build(config: TDMPC2Config, observation: int | torch.Size, action: int) -> TDMPC2:
    """The model on the meta device, for a vector of so many numbers or an image of that shape."""
    if isinstance(observation, int):
        observation_spec = Composite(observation=Unbounded((observation,)))
    else:
        observation_spec = Composite(pixels=Bounded(0, 255, shape=observation, dtype=torch.uint8))
    if config.num_tasks:
        observation_spec["task"] = Categorical(config.num_tasks, shape=(), dtype=torch.int64)
    action_spec = Composite(action=Bounded(-1.0, 1.0, shape=(action,), dtype=torch.float32))
    with torch.device("meta"):
        return TDMPC2(config, observation_spec, action_spec)


def test_every_paper_size_is_a_preset() -> None:
    assert set(PRESETS) == {"tiny", *SINGLE}


@pytest.mark.parametrize("preset", SINGLE)
def test_single_task(preset: str) -> None:
    assert build(PRESETS[preset], 39, 6).num_parameters() == SINGLE[preset]


@pytest.mark.parametrize("preset", MT30)
def test_mt30(preset: str) -> None:
    # Quirks of the official code for this set of tasks: a wider embedding at the ends, a narrower latent at 19M.
    quirks = {"task_dim": 96 if preset in ("1m", "317m") else 64}
    if preset == "19m":
        quirks["latent_dim"] = 512
    config = dataclasses.replace(PRESETS[preset], action_dims=(6,) * 30, **quirks)
    assert build(config, 24, 6).num_parameters() == MT30[preset]


@pytest.mark.parametrize("preset", MT80)
def test_mt80(preset: str) -> None:
    config = dataclasses.replace(PRESETS[preset], action_dims=(6,) * 80, task_dim=96)
    assert build(config, 39, 6).num_parameters() == MT80[preset]


@pytest.mark.parametrize(
    ("observation", "action", "count"),
    [(24, 6, 4_960_618), (3, 1, 4_932_192), (223, 38, 5_159_082), (torch.Size([9, 64, 64]), 6, 4_879_370)],
)
def test_5m_for_other_shapes(observation: int | torch.Size, action: int, count: int) -> None:
    assert build(PRESETS["5m"], observation, action).num_parameters() == count


def test_5m_with_a_termination_head() -> None:
    model = build(dataclasses.replace(PRESETS["5m"], episodic=True), 39, 6)
    assert model.num_parameters() == 5_492_331
    assert sum(x.numel() for x in model.termination_head.parameters()) == 527_873


def test_parts_of_5m() -> None:
    model = build(PRESETS["5m"], 39, 6)
    parts = {
        "encoder": model.encoder,
        "dynamics": model.dynamics,
        "reward": model.reward_head,
        "policy": model.behavior.policy,
        "qs": model.behavior.q_ensemble,
    }
    counts = {name: sum(x.numel() for x in part.parameters()) for name, part in parts.items()}
    assert counts == {"encoder": 143_360, "dynamics": 794_112, "reward": 582_245, "policy": 533_516, "qs": 2_911_225}
