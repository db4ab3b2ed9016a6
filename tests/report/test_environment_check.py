"""`worldloom check` on environments of every odd kind: the words for each, and training on those it calls trainable."""

from __future__ import annotations

import functools
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
from worldloom_rl.commands import finish
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.report.environment_check import check_environment
from worldloom_rl.report.environment_report import EnvironmentReport
from worldloom_rl.training import loop
from worldloom_rl.training.run_directory import RunDirectory

RECIPES = {"dreamerv3": dreamerv3.RECIPE, "tdmpc2": tdmpc2.RECIPE}
BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SMALL = {
    "dreamerv3": (
        "deterministic=8", "hidden=8", "groups=2", "classes=4", "blocks=2", "units=8", "num_bins=21", "batch_size=4",
        "batch_length=4", "horizon=1", "updates_per_step=0.05",
    ),
    "tdmpc2": (
        "num_samples=4", "num_elites=2", "num_policy_trajectories=1", "iterations=1", "batch_size=4", "horizon=1",
        "updates_per_step=0.05", "min_seed_steps=100",
    ),
}  # fmt: skip


class Odd(gymnasium.Env[Any, Any]):
    """Random observations and rewards of any space, unless `observe` or `reward` give others."""

    def __init__(self, observation: Any = BOX, action: Any = None, observe: Any = None, reward: Any = None) -> None:
        self.observation_space = observation
        self.action_space = action or spaces.Discrete(2)
        self.observe = observe or (lambda space, steps: space.sample())
        self.reward = reward or (lambda steps: float(steps % 3))
        self.ends: int | None = None
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(self.observation_space, 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observe(self.observation_space, self.steps), self.reward(self.steps), False, False, {}


class Ending(Odd):
    """A terminal state after four steps."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, self.steps == 4, truncated, info


class Masked(Odd):
    """Raises for what the mask in its info forbids."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, _ = super().reset(**options)
        return observation, {"action_mask": np.array([1, 0], np.int8)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action == self.steps % 2, "illegal action"
        observation, reward, *ends, _ = super().step(action)
        mask = np.eye(2, dtype=np.int8)[self.steps % 2]
        return observation, reward, *ends, {"action_mask": mask}


class Brief(Odd):
    """A terminal state after every step."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, True, truncated, info


def nan_at_the_fifth(space: Any, steps: int) -> Any:
    return np.array([0.0, np.nan if steps == 5 else steps, 0.0], np.float32)


ODD: dict[str, dict[str, Any]] = {
    "Dictionary": {
        "observation": spaces.Dict(
            {"speed": BOX, "inner": spaces.Dict({"gear": spaces.Discrete(5, start=1), "wide": BOX})}
        )
    },
    "Bytes": {"observation": spaces.Box(0, 255, (4,), np.uint8)},
    "Start": {"observation": spaces.Discrete(4, start=2), "action": spaces.Discrete(3, start=-1)},
    "MultiDiscreteSeen": {"observation": spaces.MultiDiscrete([3, 4])},
    "MultiDiscreteDone": {"action": spaces.MultiDiscrete([3, 4])},
    "Binary": {"action": spaces.MultiBinary(3)},
    "Tuple": {"observation": spaces.Tuple([spaces.Discrete(2), BOX])},
    "Unbounded": {"action": spaces.Box(-np.inf, np.inf, (2,), np.float32)},
    "Fixed": {"action": spaces.Box(1.0, 1.0, (1,), np.float32)},
    "Double": {"action": spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 0.5]), dtype=np.float64)},
    "Image": {"observation": spaces.Box(0, 255, (50, 70, 3), np.uint8)},
    "NaNReward": {"reward": lambda steps: float("nan") if steps == 3 else 0.0},
    "NaNObservation": {"observe": nan_at_the_fifth},
    "NaNReset": {"observe": lambda space, steps: np.full(3, steps or np.nan, np.float32)},
    "Still": {"observe": lambda space, steps: np.ones(3, np.float32)},
    "Flat": {"reward": lambda steps: 0.5},
    "Scales": {"observe": lambda space, steps: space.sample() * np.array([1.0, 1.0, 1e-3], np.float32)},
    "Counter": {"observation": spaces.Dict({"step_count": BOX, "speed": BOX})},
}
TRAINED = {
    "Dictionary": ["dreamerv3", "tdmpc2"],
    "Start": ["dreamerv3", "tdmpc2"],
    "MultiDiscreteSeen": ["dreamerv3", "tdmpc2"],
    "MultiDiscreteDone": ["dreamerv3", "tdmpc2"],
    "Bytes": ["dreamerv3", "tdmpc2"],
    "Double": ["dreamerv3", "tdmpc2"],
    "Still": ["dreamerv3", "tdmpc2"],
    "Flat": ["dreamerv3", "tdmpc2"],
    "Scales": ["dreamerv3", "tdmpc2"],
    "Counter": ["dreamerv3", "tdmpc2"],
    "Ending": ["dreamerv3", "tdmpc2"],
}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    made = {f"{name}-v0": (Odd, options) for name, options in ODD.items()}
    made |= {"Ending-v0": (Ending, {}), "Brief-v0": (Brief, {}), "Masked-v0": (Masked, {})}
    for name, (entry, options) in made.items():
        gymnasium.register(name, entry, max_episode_steps=20, kwargs=options)
    gymnasium.register("Endless-v0", Odd)
    yield
    for name in (*made, "Endless-v0"):
        gymnasium.registry.pop(name)


@functools.cache
def check(name: str, **options: Any) -> EnvironmentReport:
    report = check_environment(f"{name}-v0", list(RECIPES.values()), **options)
    assert max(map(len, report.text().splitlines())) <= 100
    return report


def words(report: EnvironmentReport) -> str:
    """The report in one line, so that wrapped sentences are whole."""
    return " ".join(report.text().split())


def able(report: EnvironmentReport) -> list[str]:
    return [family.name for family in report.families if family.obstacle is None]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name in ("Start", "Ending") else pytest.mark.slow)
        for name in TRAINED
    ],
)
def test_what_it_calls_trainable_trains_for_200_steps(name: str, tmp_path: Path) -> None:
    report = check(name)
    assert able(report) == TRAINED[name]
    for family in report.families:
        if family.obstacle is None:
            recipe = RECIPES[family.name]
            config = recipe.config_class(
                env=f"{name}-v0",
                steps=200,
                overrides=SMALL[family.name],
                eval_every=1000,
                eval_episodes=1,
                final_eval_episodes=1,
                run_directory=str(tmp_path / family.name),
            )
            loop.train(recipe, config)
            result = json.loads((tmp_path / family.name / "result.json").read_text())
            assert result["agent_steps"] == 200
            assert result["updates"] >= 8


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Binary", "'action' is MultiBinary(3); a Discrete, a flat MultiDiscrete, a real Box or a Dict of them"),
        ("Tuple", "the observation 'observation' is Tuple"),
        ("Unbounded", "'action' has the bounds low=[-inf -inf], high=[inf inf]; planning needs finite ones"),
        ("Fixed", "neither categorical nor a real-valued box with finite bounds low < high"),
        ("NaNReward", "gave the reward nan at simulator step 3 of its episode"),
        (
            "NaNObservation",
            "the observation observation[1] was nan at simulator step 5 of its episode (1 of 3 numbers",
        ),
        (
            "NaNReset",
            "the observation observation[0] was nan at simulator step 0 of its episode (3 of 3 numbers",
        ),
        ("Endless", "Endless-v0 has no time limit, and the discount and the replay need one"),
        ("Missing", "gymnasium knows no 'Missing-v0'"),
    ],
)
def test_what_no_family_can_use_is_refused_with_the_reason(name: str, said: str) -> None:
    report = check(name)
    assert not report.trainable
    assert said in words(report)
    assert "cannot be trained with any family yet" in words(report)
    assert f"then check again: worldloom check {name}-v0" in words(report)


def test_an_endless_environment_is_used_with_a_time_limit() -> None:
    report = check("Endless", time_limit=30, action_repeat=2)
    assert able(report) == ["dreamerv3", "tdmpc2"]
    assert report.longest_episode == 15
    assert "--env Endless-v0 --action-repeat 2 --time-limit 30" in words(report)


def test_an_image_of_another_size_is_read_by_no_preset_and_each_family_says_its_sizes() -> None:
    report = check("Image")
    assert not report.trainable
    dreamer, td = report.families
    assert not dreamer.parameters
    assert "in multiples of 16; got 50 x 70. Resize them in the environment" in str(dreamer.obstacle)
    assert "uint8 images [C, 64, 64]" in str(td.obstacle)
    assert "Box uint8 [50, 70, 3] → uint8 [3, 50, 70], channels first" in words(report)
    assert "cannot read presets tiny, size1m, size12m" in words(report)


def test_every_leaf_is_listed_with_what_becomes_of_it() -> None:
    said = words(check("Dictionary"))
    assert "inner.gear Discrete(5, start=1) → float32 [5], one-hot" in said
    assert "speed Box float32 [3] → float32 [3]" in said
    said = words(check("Start"))
    assert "observation Discrete(4, start=2) → float32 [4], one-hot" in said
    assert "action Discrete(3, start=-1) → one of 3 choices, one-hot" in said
    assert "MultiDiscrete([3 4]) → float32 [7], one-hots side by side" in words(check("MultiDiscreteSeen"))
    said = words(check("Double"))
    assert "action Box float64 [2] → 2 real numbers in -2 to 2, 0 to 0.5; rescaled to [-1, 1] inside the model" in said
    assert "step_count Box float32 [3] → float32 [3]" in words(check("Counter"))


def test_bytes_in_a_vector_are_real_numbers_and_several_choices_are_one_hots() -> None:
    assert "observation Box uint8 [4] → float32 [4]" in words(check("Bytes"))
    assert "action MultiDiscrete([3 4]) → one of 3 x 4 choices, one-hot" in words(check("MultiDiscreteDone"))


def problems(name: str) -> list[str]:
    return [problem.what for problem in check(name).problems]


def test_what_training_may_suffer_from_is_said_and_nothing_else() -> None:
    assert problems("Double") == []
    (still,) = problems("Still")
    assert still == "The observation observation is constant: it never changed in 200 steps of random actions."
    (flat,) = problems("Flat")
    assert flat == "Rewards never changed: 0.5 at each of 200 random steps."
    (scales,) = problems("Scales")
    assert "very different scales: the standard deviation of observation[" in scales
    assert "that of observation[2] is 0.0" in scales
    assert problems("Ending") == []


def test_an_action_mask_is_kept_to_and_told_of() -> None:
    assert able(check("Masked")) == ["dreamerv3", "tdmpc2"]
    (masked,) = problems("Masked")
    count = int(masked.removeprefix("The action mask forbade the action at ").split()[0])
    assert 60 < count < 140  # of 200, half of the random ones
    assert "the next one that is allowed is played, here and in training" in words(check("Masked"))


def test_what_the_family_will_find_out_itself_is_told_and_needs_no_option() -> None:
    report = check("Ending", steps=5000)
    assert [family.found for family in report.families] == [
        (),
        ("episodes can end by themselves, and where is learned",),
    ]
    assert "found out episodes can end by themselves, and where is learned" in words(report)
    assert words(report).endswith(
        "Next: worldloom train dreamerv3 --env Ending-v0 --steps 5000 "
        "worldloom train tdmpc2 --env Ending-v0 --steps 5000"
    )
    assert report.play is not None
    assert set(report.play.lengths) == {4}
    assert report.play.terminations == 50


def test_the_next_commands_train_the_environment_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_environment("Ending-v0", list(RECIPES.values()), time_limit=30, action_repeat=1, steps=5000)
    configs: list[Any] = []
    monkeypatch.setattr(loop, "train", lambda _, config: configs.append(config) or RunDirectory("nowhere"))
    monkeypatch.setattr(finish, "finish_run", lambda path: None)
    for line in report.text().splitlines()[-2:]:
        cli.main(line.split()[1:])
    for config in configs:
        assert (config.env, config.time_limit, config.action_repeat, config.steps) == ("Ending-v0", 30, 1, 5000)
    assert tdmpc2.settled(configs[1]).episodic


def test_episodes_shorter_than_a_window_stop_the_family_that_needs_whole_ones() -> None:
    report = check("Brief")
    assert able(report) == ["dreamerv3"]
    assert "no window of 4 rows" in words(report)


@pytest.mark.parametrize("name", ["Dictionary", "Double", "Ending", "Bytes", "MultiDiscreteSeen"])
def test_replay_bytes_are_those_that_a_replay_allocates(name: str) -> None:
    report = check(name)
    for family in report.families:
        if family.trial is None:
            continue
        recipe = RECIPES[family.name]
        state = recipe.make_state(recipe.config_class(env=f"{name}-v0", steps=500))
        try:
            for _ in range(30):
                state.source.add(state.source.collect())
        finally:
            state.close()
        capacity = state.source.replay._storage.max_size
        rows = state.source.replay._storage._storage
        leaves = sum(leaf.nbytes for leaf in rows.values(include_nested=True, leaves_only=True))
        ring = state.source.replay._ring
        beside = ring.nbytes + state.source.replay._saved.nbytes
        assert capacity == 2000
        assert family.trial.row_bytes == pytest.approx((leaves + beside) / capacity, rel=0.05)


@pytest.mark.long
def test_rendered_images_are_stacked_as_each_family_does_and_the_vector_is_ignored() -> None:
    report = check_environment("Pendulum-v1", list(RECIPES.values()), pixels=True)
    said = words(report)
    assert "pixels rendered image → uint8 [3, 64, 64]" in said
    assert "observation Box float32 [3] → ignored: --pixels observes images" in said
    assert able(report) == ["dreamerv3", "tdmpc2"]
    dreamer, td = report.families
    assert dreamer.trial is not None
    assert td.trial is not None
    assert dreamer.trial.row_bytes == pytest.approx(3 * 64 * 64, rel=0.1)
    assert td.trial.row_bytes == pytest.approx(9 * 64 * 64, rel=0.1)
    assert "--pixels" in report.arguments


def test_time_is_projected_from_acting_and_the_updates_that_are_due() -> None:
    report = check("Double", steps=2000)
    for family in report.families:
        trial = family.trial
        assert trial is not None
        learned = 2000 if family.name == "tdmpc2" else 2000 - trial.learning_starts
        expected = 2000 * trial.acting_seconds + learned * trial.updates_per_step * trial.update_seconds
        assert trial.training_seconds(2000) == pytest.approx(expected)
        assert 0 < trial.acting_seconds < 1
        assert 0 < trial.update_seconds < 5
        assert (trial.bfloat16 is not None) == (family.name == "dreamerv3")  # TD-MPC2's runs have no such choice
    assert "times float32's time on this processor" in words(report)
    assert report.families[0].trial.learning_starts == 512  # 16 sequences of 32 rows
    assert "starts after" in words(check("Double", steps=100))


def test_the_check_leaves_torchs_generator_as_it_was_and_the_same_seed_gives_the_same_play() -> None:
    before = torch.get_rng_state()
    first, second = (check_environment("Double-v0", list(RECIPES.values())) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.families[0].parameters == second.families[0].parameters
    assert first.play is not None
    assert second.play is not None
    assert first.play.lengths == second.play.lengths


def test_the_command_prints_the_report_and_its_exit_status_says_whether_to_train(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.main(["check", "Double-v0", "--steps", "500"])
    assert "Double-v0 can be trained with dreamerv3 and tdmpc2." in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check", "Unbounded-v0"])
    assert stopped.value.code == 2
    assert "gymnasium.wrappers.TransformAction" in capsys.readouterr().out
