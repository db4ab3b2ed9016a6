"""Open-loop pictures: what is compared with what, and that a picture comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import ModeNoise
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.registry import find_preset
from worldloom_rl.report.open_loop import draw_open_loop, open_loop

OBSERVATION = Composite(position=Unbounded((3,)), pixels=Unbounded((3, 64, 64), dtype=torch.uint8))
ACTION = Composite(action=Bounded(-2.0, 1.0, (2,)))


@pytest.fixture
def model() -> DreamerV3:
    torch.manual_seed(0)
    return DreamerV3(find_preset("dreamerv3:tiny")[1], OBSERVATION, ACTION)


def rows(steps: int = 8) -> TensorDict:
    td = OBSERVATION.rand(torch.Size([steps]))
    td["previous_action"] = ACTION.rand(torch.Size([steps]))["action"]
    td["is_init"] = torch.zeros(steps, 1, dtype=torch.bool)
    td["is_init"][0] = True
    return td


def test_only_the_context_is_observed_and_all_actions_are_followed(model: DreamerV3) -> None:
    given, noise = rows(), ModeNoise()
    result = open_loop(model, given, context=3, noise=noise)
    unseen = given.clone()
    unseen["position"][3:] = 0.0
    same = open_loop(model, unseen, context=3, noise=noise)
    assert torch.equal(result.samples["position"], same.samples["position"])
    moved = given.clone()
    moved["previous_action"][5] += 0.5
    other = open_loop(model, moved, context=3, noise=noise).samples["position"]
    differs = (other != result.samples["position"]).any(-1)[0]
    assert differs.tolist() == [False] * 5 + [True] * 3


def test_the_context_is_what_observe_makes_of_it(model: DreamerV3) -> None:
    given, noise = rows(), ModeNoise()
    result = open_loop(model, given, context=3, samples=2, noise=noise)
    assert result.samples["pixels"].shape == (2, 8, 3, 64, 64)
    latent = model.initial_latent()
    for t in range(3):
        row = model.read_observation(given[t])
        latent = model.filter_latent(latent, model.read_previous_action(given[t]), row, given[t]["is_init"], noise)
    torch.testing.assert_close(model.decode_latent(latent)["position"], result.samples["position"][0, 2])


def test_a_picture_is_written(model: DreamerV3, tmp_path: Path) -> None:
    draw_open_loop(tmp_path / "picture.png", "a title", open_loop(model, rows(), context=3, samples=2), frames=4)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_said(model: DreamerV3) -> None:
    with pytest.raises(ValueError, match="context must leave some of the 8 rows"):
        open_loop(model, rows(), context=8)
    broken = rows()
    broken["is_init"][4] = True
    with pytest.raises(ValueError, match="an episode starts within"):
        open_loop(model, broken, context=3)
    planner = TDMPC2(find_preset("tdmpc2:tiny")[1], *TDMPC2.default_specs())
    with pytest.raises(ValueError, match="TDMPC2 decodes no observations"):
        open_loop(planner, rows(), context=3)
