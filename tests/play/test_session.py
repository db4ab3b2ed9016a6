"""A session: world and dream under the same actions, branches from past moments, and what is shown of both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from slide import LENGTH, Knowing

from worldloom_rl.play import Session, session
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes import dreamerv3, jepa, tdmpc2
from worldloom_rl.training.recipe import AnyRecipe

RIGHT, DOWN = [2.0, 0.0], [0.0, 2.0]


def slide(model: Knowing | None = None, env: str = "Slide-v0", **options: object) -> Session:
    recipe: AnyRecipe = tdmpc2.RECIPE  # only its policy's name is asked: that is the model's
    config = tdmpc2.Config(env=env)
    return Session(recipe, config, model or Knowing(), **{"memories": 30, **options})  # type: ignore[arg-type]


def positions(moments: list[session.Moment]) -> torch.Tensor:
    return torch.stack([moment.observed["position"] for moment in moments])


def test_what_a_perfect_model_foresees_comes_awake_and_in_a_dream() -> None:
    played = slide()
    for _ in range(3):
        moment = played.step(RIGHT)
        assert (moment.error, moment.dreaming) == (0.0, False)
        assert moment.moved == pytest.approx(0.25)
    played.dream_from()
    for number in range(1, 6):
        moment = played.step(RIGHT)
        assert moment.error == pytest.approx(0.0, abs=1e-6)
        assert moment.moved == pytest.approx(0.25 * number, abs=1e-6)
        assert moment.world is not None
        assert moment.world[1:] == pytest.approx(moment.dream[1:])


def test_a_wrong_model_goes_astray_in_its_dream_until_it_wakes() -> None:
    played = slide(Knowing(way=-1.0))
    assert [played.step(RIGHT).error for _ in range(2)] == pytest.approx([0.5, 0.5])
    played.dream_from()
    assert [played.step(RIGHT).error for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5])
    assert played.wake().dreaming  # what was dreamt stays shown
    assert played.step(RIGHT).error == pytest.approx(0.5)


def test_a_dream_from_a_past_moment_takes_the_world_back_to_it() -> None:
    played = slide()
    for action in (RIGHT, DOWN, DOWN, RIGHT):
        played.step(action)
    before, path = positions(played.moments), played.path
    begun = played.dream_from(1)
    assert len(played.moments) == 2
    assert played.path != path
    assert torch.equal(begun.dreamt["position"], before[1])
    for action in (DOWN, DOWN, RIGHT):
        played.step(action)
    assert torch.equal(positions(played.moments), before)
    assert all(moment.dreaming for moment in played.moments[1:])


def test_a_world_that_cannot_be_put_back_waits_while_somebody_dreams() -> None:
    played = slide(env="UnkeptSlide-v0")
    for _ in range(4):
        played.step(RIGHT)
    there = played.moments[-1]
    played.dream_from(1)
    moment = played.step(DOWN)
    assert moment.world is None
    assert moment.error is None
    assert moment.dreamt["position"][1] - moment.observed["position"][1] == pytest.approx(0.25)
    played.dream_from(-1)  # in the dream, where the world is not
    assert torch.equal(played.moments[-1].dreamt["position"], moment.dreamt["position"])
    assert played.wake() is there
    assert played.step(RIGHT).error == pytest.approx(0.0, abs=1e-6)


def test_an_episode_that_ended_begins_anew_and_a_dream_goes_beyond_it() -> None:
    played = slide()
    for _ in range(LENGTH):
        moment = played.step(RIGHT)
    assert moment.ended
    assert moment.world is not None
    assert moment.world.continuation == 0.0
    played.dream_from()
    assert [played.step(RIGHT).world for _ in range(2)] == [None, None]
    played.wake()
    assert played.step(RIGHT).begins
    assert not played.step(RIGHT).begins


def test_the_agent_acts_on_what_it_sees_and_in_a_dream_on_what_it_dreams() -> None:
    played = slide(Knowing(way=-1.0))
    before = played.moments[-1].observed["position"]
    awake = played.step()
    assert awake.action is not None
    assert awake.action.tolist() == pytest.approx((-before / 3).tolist())
    played.dream_from()
    dreamt = played.step().dreamt["position"]
    action = played.step().action
    assert action is not None
    assert action.tolist() == pytest.approx((-dreamt / 3).tolist())
    assert not torch.allclose(dreamt, played.moments[-2].observed["position"])


def test_an_action_that_there_is_not_is_refused_and_changes_nothing() -> None:
    played = slide()
    for wrong in ([1.0], [1.0, 2.0, 3.0], ["left", 0.0], [float("nan"), 0.0]):
        with pytest.raises(ValueError, match=r"[Cc]ontrol"):
            played.step(wrong)  # type: ignore[arg-type]
    assert len(played.moments) == 1
    assert played.step([9.0, -9.0]).action.tolist() == [1.0, -1.0]  # type: ignore[union-attr]  # kept in its bounds


def test_newer_weights_are_taken_where_an_episode_begins() -> None:
    written = [Knowing(way=1.0), None]
    played = slide(Knowing(way=-1.0), newer=lambda: written.pop() if len(written) < 2 else written.pop() and None)
    assert played.step(RIGHT).error == pytest.approx(0.5)
    played.restart()
    assert played.step(RIGHT).error == 0.0


def test_the_oldest_moments_are_dropped_and_a_page_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MOST", 8)
    monkeypatch.setattr(session, "_DROPPED", 3)
    played = slide()
    path = played.path
    last = [played.step(RIGHT) for _ in range(8)][-1]
    assert len(played.moments) == 6
    assert played.moments[-1] is last
    assert played.path == path + 1


def test_a_gif_shows_every_moment_world_beside_dream(tmp_path: Path) -> None:
    played = slide()
    for _ in range(4):
        played.step(RIGHT)
    played.save_gif(tmp_path / "play.gif")
    frames = imageio.mimread(tmp_path / "play.gif")
    assert len(frames) == 5
    assert frames[0].shape[:2] == (8 * 4 + 8, 2 * (12 * 4 + 8))


FEW = {"num_samples": 8, "num_elites": 2, "iterations": 1}
FAMILIES = {
    "dreamerv3": (dreamerv3, "worldloom/Catch-v0", {}),
    "tdmpc2": (tdmpc2, "Pendulum-v1", {**FEW, "num_policy_trajectories": 2}),
    "jepa": (jepa, "worldloom/PointRoom-v0", FEW),
}


def untrained(family: str, **options: object) -> Session:
    module, env, numbers = FAMILIES[family]
    config = module.Config(env=env, **options)
    found, preset = find_preset(f"{family}:tiny")
    torch.manual_seed(0)
    model = found.model_class(dataclasses.replace(preset, **numbers), *config.specs())
    return Session(module.RECIPE, config, model.eval(), memories=12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_played_and_dreams(family: str) -> None:
    played = untrained(family)
    given = [0.0] * len(played.controls)
    for action in (None, given):
        assert played.step(action).world is not None
    played.dream_from(1)
    moment = played.step()
    assert moment.world is not None
    assert moment.error is not None
    assert (moment.memory is None) == (family == "dreamerv3")
    assert (moment.dream.value is None) == (family == "jepa")
    for side in (moment.world, moment.dream):
        assert np.asarray(imageio.imread(side.picture)).shape[2] == 3
    played.close()


def test_what_a_run_that_explored_values_is_not_shown_as_a_value_of_rewards() -> None:
    played = untrained("dreamerv3", explore=True)
    moment = played.step()
    assert moment.world is not None
    assert (moment.world.value, moment.dream.value) == (None, None)
    played.close()


def test_a_planner_goes_on_from_its_plan_only_while_the_agent_plays() -> None:
    played = untrained("tdmpc2")
    carried = played.step().carried
    assert carried is not None
    assert carried["planner", "mean"].shape == (played.model.config.horizon, 1)
    assert played.step([0.5]).carried is None


def test_what_cannot_be_played_is_said() -> None:
    with pytest.raises(ValueError, match="recorded episodes: there is no environment to play in"):
        Session(jepa.RECIPE, jepa.Config(data="minari:some/data-v0"), Knowing())
    for env in ("Undrawn-v0", "Modeless-v0"):
        with pytest.raises(ValueError, match=rf"{env} cannot be drawn, and the model decodes no image.*render") as said:
            slide(env=env)
        assert len(str(said.value)) < 500
