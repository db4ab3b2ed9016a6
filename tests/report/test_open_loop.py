"""Open-loop pictures: what is compared with what, and that a picture comes out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import ModeNoise
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.report.open_loop import open_loop
from worldloom_rl.report.open_loop_picture import draw_open_loop

OBSERVATION = Composite(position=Unbounded((3,)), pixels=Unbounded((3, 64, 64), dtype=torch.uint8))
ACTION = Composite(action=Bounded(-2.0, 1.0, (2,)))


@pytest.fixture
def model() -> DreamerV3:
    torch.manual_seed(0)
    return DreamerV3(find_preset("dreamerv3:tiny")[1], OBSERVATION, ACTION)


def rows(steps: int = 8) -> TensorDict:
    td = OBSERVATION.rand(torch.Size([steps]))
    td["previous_action"] = ACTION.rand(torch.Size([steps]))["action"]
    td["reward"] = torch.rand(steps, 1)
    td["terminated"] = torch.zeros(steps, 1, dtype=torch.bool)
    td["is_init"] = td["terminated"].clone()
    td["is_init"][0] = True
    return td


def planner(episodic: bool) -> tuple[TDMPC2, TensorDict]:
    """A model that decodes no observation, and rows for it."""
    torch.manual_seed(0)
    observation = Composite(position=Unbounded((3,)))
    config = dataclasses.replace(find_preset("tdmpc2:tiny")[1], episodic=episodic)
    return TDMPC2(config, observation, ACTION), rows()


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
    with pytest.raises(ValueError, match="samples must be at least 1"):
        open_loop(model, rows(), context=3, samples=0)


def test_a_model_without_a_decoder_gets_its_latent_error_against_the_latent_encoded_from_the_truth() -> None:
    model, given = planner(episodic=False)
    result = open_loop(model, given, context=3, samples=2)
    assert not result.truth
    assert list(result.curves) == ["latent error", "reward", "return since\nthe context"]
    encoded = model.encode(given.clone())["latent", "deterministic"].detach()
    imagined = model.imagine(
        model.encode(given[2:3].clone()), actions=model.read_previous_action(given[3:]).unsqueeze(0)
    ).detach()
    error = result.curves["latent error"]
    distance = (imagined["next", "latent", "deterministic"][0] - encoded[3:]).square().sum(-1).sqrt()
    torch.testing.assert_close(error.samples[:, 3:], distance.expand(2, -1))
    torch.testing.assert_close(error.truth[3:], (encoded[2] - encoded[3:]).square().sum(-1).sqrt())
    assert error.samples[:, :3].isnan().all()
    torch.testing.assert_close(result.curves["reward"].samples[0, 3:], imagined["next", "reward"][0, :, 0])


def test_the_return_starts_after_the_context_and_the_episode_goes_on_until_it_terminates(model: DreamerV3) -> None:
    given = rows(6)
    given["reward"] = torch.tensor([0.0, 7.0, 7.0, 1.0, 2.0, 4.0]).unsqueeze(-1)
    given["terminated"][-1] = True
    reward, total, goes_on = open_loop(model, given, context=3, samples=2).curves.values()
    assert reward.truth[3:].tolist() == [1.0, 2.0, 4.0]
    assert total.truth[3:].tolist() == [1.0, 3.0, 7.0]
    assert goes_on.truth[3:].tolist() == [1.0, 1.0, 0.0]
    torch.testing.assert_close(total.samples[:, -1], reward.samples[:, 3:].sum(1))


@pytest.mark.parametrize("episodic", [False, True])
def test_the_probability_to_go_on_is_drawn_where_the_model_predicts_one(episodic: bool, tmp_path: Path) -> None:
    result = open_loop(*planner(episodic), context=3)
    assert ("probability\nto go on" in result.curves) == episodic
    draw_open_loop(tmp_path / "picture.png", "a title", result)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
