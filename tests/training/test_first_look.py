"""What a run finds out before it begins: whether episodes end by themselves, and whether bounds lie apart."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldloom_rl import cli
from worldloom_rl.recipes import dreamerv3, tdmpc2, tdmpc2_offline, tokens
from worldloom_rl.recipes.finetune_options import FineTunedDreamerV3RunConfig, FineTunedTDMPC2RunConfig
from worldloom_rl.training import first_look, loop
from worldloom_rl.training.first_look import look
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.train_or_resume import train_or_resume

SMALL: dict[str, Any] = {
    "overrides": ("num_samples=8", "num_elites=2", "num_policy_trajectories=1", "iterations=1", "batch_size=8"),
    "seed_steps": 20,
    "steps": 24,
    "time_limit": 10,
    "eval_episodes": 1,
    "final_eval_episodes": 1,
    "first_evaluation": False,
}


class Line(gymnasium.Env[np.ndarray, np.ndarray]):
    """A place on a line, moved by the action; the numbers seen are the place times `scales`.

    Args:
        goal: the episode ends in a terminal state where the place is beyond it.
    """

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, bounds: tuple[float, ...] = (1.0, 1.0), scales: tuple[float, ...] = (), goal: float = np.inf):
        limits = np.array(bounds, np.float32)
        self.observation_space = spaces.Box(-limits, limits)
        self.scales, self.goal = np.array(scales or bounds, np.float32), goal

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0.0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + 0.1 * action[0], -1.0, 1.0))
        return self._seen(), 0.0, self.place > self.goal, False, {}

    def _seen(self) -> np.ndarray:
        return (self.place * self.scales).astype(np.float32)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("Line-v0", Line, max_episode_steps=50)
    gymnasium.register("Far-v0", Line, max_episode_steps=50, kwargs={"goal": 0.95})
    yield
    for name in ("Line-v0", "Far-v0"):
        gymnasium.registry.pop(name)


def line(**changes: Any) -> tdmpc2.Config:
    return tdmpc2.Config(env="Line-v0", **changes)


# ------------------------------------------------------------------ the look


@pytest.mark.parametrize(
    ("env", "terminates", "bounds_apart"),
    [
        ("CartPole-v1", True, True),  # ±4.8 and ±0.42
        ("Acrobot-v1", True, True),  # ends at a goal; ±1 and ±28
        ("Pendulum-v1", False, False),  # ±1 and ±8
        ("worldloom/Recall-v0", False, False),  # images
        ("Line-v0", False, False),
        ("Far-v0", True, False),
    ],
)
def test_random_episodes_tell_whether_an_environment_ends_and_how_its_bounds_lie(
    env: str, terminates: bool, bounds_apart: bool
) -> None:
    seen = look(tdmpc2.Config(env=env))
    assert (seen.terminates, seen.bounds_apart) == (terminates, bounds_apart)


def test_a_far_goal_is_reached_because_actions_are_held() -> None:
    """Of 4000 single random actions hardly one episode of 50 moves 0.95 away; held ones do at once."""
    env = gymnasium.make("Far-v0")
    env.action_space.seed(0)
    ended = 0
    for _ in range(20):
        env.reset(seed=0)
        while not (step := env.step(env.action_space.sample()))[3]:
            ended += step[2]
    assert ended == 0
    assert all(look(tdmpc2.Config(env="Far-v0", seed=seed)).terminates for seed in range(5))


@pytest.mark.parametrize(
    ("kwargs", "apart"),
    [
        (("bounds=[1, 10]",), False),  # ten times is not more
        (("bounds=[1, 11]",), True),
        (("bounds=[1, 3.4e38]", "scales=[1, 5]"), False),  # an old way to say that there is no bound
        (("bounds=[1, 1000]", "scales=[1, 5]"), False),  # bounds that are no measure of what they bound
    ],
)
def test_bounds_count_where_entries_move_through_them(kwargs: tuple[str, ...], apart: bool) -> None:
    assert look(line(env_kwargs=kwargs)).bounds_apart == apart


def test_the_look_draws_from_no_generator_of_the_run() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    look(line())
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ what comes of it


def test_what_was_found_stands_in_the_run_and_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", "CartPole-v1", "--overrides", *SMALL["overrides"], "--seed-steps", "20", "--steps", "24"]
    arguments += ["--time-limit", "10", "--eval-episodes", "1", "--final-eval-episodes", "1", "--no-first-evaluation"]
    cli.main(["train", "tdmpc2", *arguments, "--run-directory", str(tmp_path / "run")])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "discount 0.95, at most 10 agent steps an episode; episodes can end by themselves, and where is learned; "
        "observations rescaled to [-1, 1]. Run directory" in said
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["episodic"], config["rescale_observations"]) == (True, True)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["model_config"]["episodic"] is True


@pytest.mark.parametrize(
    ("told", "episodic", "rescaled"),
    [
        ({"episodic": False}, False, True),
        ({"rescale_observations": False}, True, False),
        ({"episodic": True, "rescale_observations": True}, True, True),
        ({}, True, True),
    ],
)
def test_what_is_told_counts_more_than_what_is_found(told: dict[str, bool], episodic: bool, rescaled: bool) -> None:
    config = tdmpc2.RECIPE.settle(tdmpc2.Config(env="CartPole-v1", **told))
    assert (config.episodic, config.rescale_observations) == (episodic, rescaled)


@pytest.mark.parametrize("option", ["episodic", "rescale-observations", "compile"])
def test_options_are_flags_with_their_opposites(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(loop, "train", lambda _, config: seen.append(config) or RunDirectory("nowhere"))
    monkeypatch.setattr("worldloom_rl.commands.finish.finish_run", lambda path: None)
    for form in ([f"--{option}"], [f"--no-{option}"], []):
        cli.main(["train", "tdmpc2", "--env", "Line-v0", *form])
    assert [getattr(config, option.replace("-", "_")) for config in seen] == [True, False, None]


def test_a_run_goes_on_with_what_it_found_and_never_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tdmpc2.Config(
        env="Far-v0", run_directory=str(tmp_path / "run"), **{**SMALL, "time_limit": 40, "seed_steps": 50, "steps": 52}
    )
    run = tdmpc2.train(config)

    def again(config: object) -> None:
        raise AssertionError("looked again")

    monkeypatch.setattr(first_look, "look", again)
    loop.resume(tdmpc2.RECIPE, run, steps=54)
    assert json.loads((run.path / "result.json").read_text())["config"]["episodic"] is True
    # The command that began it is the same run's, though it says nothing of what was found.
    assert train_or_resume(tdmpc2.RECIPE, dataclasses.replace(config, steps=54)).path == run.path
    with pytest.raises(ValueError, match="--episodic False was given, True expected"):
        train_or_resume(tdmpc2.RECIPE, dataclasses.replace(config, steps=54, episodic=False))


def test_other_families_find_out_nothing() -> None:
    for recipe in (dreamerv3.RECIPE, tokens.RECIPE):
        config = recipe.settle(recipe.config_class(env="CartPole-v1"))
        assert config.rescale_observations is False
        assert config.found == ()


def test_a_terminal_state_that_random_episodes_did_not_show_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "look", lambda config: first_look.FirstLook(False, False))
    state = tdmpc2.make_state(tdmpc2.Config(env="CartPole-v1", **SMALL))
    transitions = state.source.collect()
    transitions["next", "terminated"][:] = True
    state.close()
    with pytest.raises(ValueError, match=r"random episodes did not show it\. Train with --episodic\."):
        tdmpc2.RECIPE.check(state, transitions)


# ------------------------------------------------------------------ runs and data that came before


def earlier_run(directory: Path, *, rescaled: bool) -> str:
    """What tells a run directory, with nothing in it but its configuration."""
    (directory / "checkpoints").mkdir(parents=True)
    config = {"env": "Line-v0", "rescale_observations": rescaled, "preset": "tiny"}
    (directory / "config.json").write_text(json.dumps({"recipe": "tdmpc2", "config": config}))
    return str(directory)


def test_observations_are_as_the_run_had_them_that_is_learned_from_or_gone_on_with(tmp_path: Path) -> None:
    plain, rescaled = (earlier_run(tmp_path / name, rescaled=name == "rescaled") for name in ("plain", "rescaled"))
    for source, expected in ((plain, False), (rescaled, True), (f"Line-v0={rescaled}", True), ("minari:a/b-v0", False)):
        offline = dreamerv3.Config(env="Line-v0", data=(source,))
        assert first_look.settled(offline).rescale_observations == expected
        told = tdmpc2.Config(env="Line-v0", data=(source,), episodic=False)
        assert tdmpc2_offline.settled(told).rescale_observations == expected
    for kind in (FineTunedDreamerV3RunConfig, FineTunedTDMPC2RunConfig):
        tuned = kind(env="Line-v0", started_from=rescaled)
        assert first_look.settled(tuned).rescale_observations is True
    both = dreamerv3.Config(env="Line-v0", data=(plain, rescaled))
    with pytest.raises(ValueError, match=r"rescaled to \[-1, 1\], those of .*plain are not"):
        first_look.settled(both)
    assert first_look.settled(dataclasses.replace(both, rescale_observations=True)).rescale_observations
