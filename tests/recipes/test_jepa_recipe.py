"""JEPA's recipe: learning without rewards from environments and recordings, and what is said where it has no answer."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from minari.data_collector.episode_buffer import EpisodeBuffer
from recorded_tasks import write_episodes
from safetensors.torch import load_file
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.envs import EnvBase

from worldloom_rl import AutoWorldModel, cli
from worldloom_rl.models.jepa import JEPA, JEPAConfig
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes import jepa
from worldloom_rl.recipes.jepa import Config
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state, save_state
from worldloom_rl.training.recipe import Recipe
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.world_model import Latent, Prediction

torch.set_num_threads(1)
SMALL = ("batch_size=8", "num_samples=8", "num_elites=2", "iterations=1", "horizon=2", "warmup=0.1")
ROOM = "worldloom/PointRoom-v0"


def make(source: str, directory: Path, **changes: Any) -> Config:
    """The configuration of a run of seconds."""
    values: dict[str, Any] = {
        "overrides": SMALL, "steps": 12, "eval_every": 12, "eval_episodes": 2, "final_eval_episodes": 2,
        "checkpoint_every": 5, "run_directory": str(directory / "run"),
    }  # fmt: skip
    if source == "room":
        values |= {"env": ROOM, "collect": 90, "num_envs": 3}
    else:
        values |= {"data": str(write_episodes(directory / "episodes")), "frame_skip": 2}
    return Config(**{**values, **changes})


def recorded(losses: dict[int, Tensor], stop: Callable[[int], bool] = lambda update: False) -> Recipe:
    class Watched(type(jepa.RECIPE)):  # type: ignore[misc]
        def update(self, state: Any) -> dict[str, Tensor]:
            metrics = super().update(state)
            losses[state.updates] = metrics["loss"].clone()
            if stop(state.updates):
                raise _Killed
            return metrics

    return Watched()


class _Killed(BaseException):
    """Stands for the end of the process: nothing in the library catches it."""


def weights(run: RunDirectory) -> dict[str, Tensor]:
    return load_file(run.checkpoints.latest() / "model" / "model.safetensors")


# ------------------------------------------------------------------ resuming


@pytest.mark.parametrize("source", ["room", "recorded"])
def test_a_stopped_run_goes_on_bit_for_bit(source: str, tmp_path: Path) -> None:
    expected: dict[int, Tensor] = {}
    config = make(source, tmp_path)
    whole = loop.train(recorded(expected), config)
    assert sorted(expected) == list(range(12))

    found: dict[int, Tensor] = {}
    stopped = dataclasses.replace(config, run_directory=str(tmp_path / "stopped"))
    with pytest.raises(_Killed):
        loop.train(recorded(found, lambda update: update == 8), stopped)
    run = RunDirectory(tmp_path / "stopped")
    found.clear()
    loop.resume(recorded(found), run)
    assert sorted(found) == list(range(5, 12))
    assert all(torch.equal(found[update], expected[update]) for update in found)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(run).items())
    results = [json.loads((one.path / "result.json").read_text()) for one in (whole, run)]
    assert results[0]["evaluations"] == results[1]["evaluations"]
    has_rows = (whole.checkpoints.latest() / "replay").exists()
    assert has_rows == (source == "room")  # recorded rows stay where they came from


def test_a_run_that_was_stopped_while_it_collected_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = make("room", tmp_path, steps=4)
    state = jepa.make_state(config)
    for _ in range(11):
        loop.step(jepa.RECIPE, state)
    (tmp_path / "saved").mkdir()
    save_state(jepa.RECIPE, state, tmp_path / "saved")
    losses: list[Tensor] = []
    for one in (lambda: state, lambda: load_state(jepa.RECIPE, config, tmp_path / "saved")):
        going = one()
        assert going.agent_steps == 33
        while going.updates < 4:
            loop.step(jepa.RECIPE, going)
            losses += [going.metrics["loss"]] if going.updates else []
    assert len(losses) == 8
    assert torch.equal(torch.stack(losses[:4]), torch.stack(losses[4:]))


def test_a_run_does_not_go_on_with_other_episodes(tmp_path: Path) -> None:
    config = make("recorded", tmp_path, steps=6)
    run = loop.train(jepa.RECIPE, config)
    write_episodes(tmp_path / "episodes", scale=0.5)
    with pytest.raises(ValueError, match="holds other episodes than when the run began"):
        loop.resume(jepa.RECIPE, run)


# ------------------------------------------------------------------ one update


def test_the_learning_rate_rises_over_the_warm_up_and_falls_as_a_cosine() -> None:
    config = dataclasses.replace(find_preset("jepa:tiny")[1], learning_rate=0.4, warmup=0.2)
    assert isinstance(config, JEPAConfig)
    learning = jepa.make_learning(JEPA(config, *JEPA.default_specs()), updates=20)
    rates = []
    for _ in range(21):
        rates.append(learning.optimizer.param_groups[0]["lr"])
        learning.optimizer.step()
        learning.schedule.step()
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates[12] == pytest.approx(0.2)  # half of the way down
    assert rates[8] == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    assert rates[20] == pytest.approx(0.0)


def test_an_update_in_bfloat16_keeps_weights_in_float32(tmp_path: Path) -> None:
    state = jepa.make_state(make("recorded", tmp_path, bfloat16=True))
    loop.step(jepa.RECIPE, state)
    assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())
    exact = jepa.make_state(make("recorded", tmp_path))
    loop.step(jepa.RECIPE, exact)
    assert state.metrics["loss_prediction"] != exact.metrics["loss_prediction"]
    torch.testing.assert_close(state.metrics["loss"].float(), exact.metrics["loss"], rtol=0.1, atol=0.02)


def test_metrics_tell_the_prediction_the_regularizer_and_the_spread(tmp_path: Path) -> None:
    state = jepa.make_state(make("recorded", tmp_path))
    loop.step(jepa.RECIPE, state)
    metrics = state.metrics
    assert {"loss_prediction", "loss_regularizer", "z_std", "grad_norm"} <= metrics.keys()
    torch.testing.assert_close(metrics["loss"], metrics["loss_prediction"] + metrics["loss_regularizer"])
    torch.testing.assert_close(metrics["loss_regularizer"], metrics["loss_sigreg"])


def test_a_collapse_is_told_once_the_warm_up_is_over(tmp_path: Path) -> None:
    state = jepa.make_state(make("recorded", tmp_path))  # 12 updates, the first two warm up
    for updates, spread, told in ((2, 0.05, False), (3, 0.05, True), (3, 0.1, False)):
        state.updates, state.metrics = updates, {"z_std": torch.tensor(spread)}
        assert ("collapsed" in jepa.RECIPE.warn(state)) == told


# ------------------------------------------------------------------ actions in the environment's units


def test_actions_are_normalised_by_the_data_and_planned_in_the_units_of_the_spec(tmp_path: Path) -> None:
    data = write_episodes(tmp_path / "episodes", scale=3.0)
    state = jepa.make_state(make("recorded", tmp_path, data=str(data), held_out=0.0))
    loop.step(jepa.RECIPE, state)
    encoder, space = state.model.action_encoder, state.model.action_space
    actions = np.concatenate([h5py.File(data / f"{number}.h5")["actions"][:] for number in range(5)])
    flat = (torch.from_numpy(actions).repeat(1, 2) - space.center) / space.half_range
    torch.testing.assert_close(encoder.mean, flat.mean(0))
    torch.testing.assert_close(encoder.std, flat.std(0, correction=0))
    assert not torch.allclose(encoder.std, torch.ones(4))

    block = torch.from_numpy(actions[:2]).reshape(1, 4)
    given = space.flatten({"action": block})  # what a planner hands the model
    bare = JEPA(state.model.config, state.model.observation_spec, state.model.action_spec).eval()
    bare.load_state_dict(state.model.state_dict())
    bare.action_encoder.normalize(torch.zeros(4), torch.ones(4))
    torch.testing.assert_close(encoder(given), bare.action_encoder((given - flat.mean(0)) / flat.std(0, correction=0)))

    state.model.save_pretrained(tmp_path / "model")
    loaded = AutoWorldModel.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.action_encoder.mean, encoder.mean)
    assert torch.equal(loaded.action_encoder.std, encoder.std)


def test_one_hot_actions_are_not_normalised(tmp_path: Path) -> None:
    config = make("room", tmp_path, env="CartPole-v1", collect=60, frame_skip=2, overrides=SMALL)
    state = jepa.make_state(config)
    while not state.updates:
        loop.step(jepa.RECIPE, state)
    assert torch.equal(state.model.action_encoder.mean, torch.zeros(4))
    assert torch.equal(state.model.action_encoder.std, torch.ones(4))


# ------------------------------------------------------------------ data and policies


def test_recorded_episodes_are_split_and_none_is_lost(tmp_path: Path) -> None:
    config = make("recorded", tmp_path, held_out=0.4)
    recording = jepa.open_episodes(config.data)
    learned, held_out = jepa.split(recording, config.held_out, config.seed)
    assert len(held_out) == 2
    assert sorted(learned + held_out) == [0, 1, 2, 3, 4]
    state = jepa.make_state(config)
    assert len(state.source.replay) == 3 * 15
    assert jepa.split(recording, 0.0, config.seed) == ([0, 1, 2, 3, 4], [])


def test_episodes_of_several_origins_are_learned_from_together(tmp_path: Path) -> None:
    data = [str(write_episodes(tmp_path / name, count=count, scale=count)) for name, count in (("a", 2), ("b", 3))]
    config = make("recorded", tmp_path, data=data, held_out=0.0)
    assert config.task == "+".join(data)
    state = jepa.make_state(config)
    assert len(state.source.replay) == 5 * 15
    assert state.model.action_spec["action"].space.high.max() > 2.5  # the widest of all
    other = write_episodes(tmp_path / "c", size=20)
    with pytest.raises(ValueError, match=r"'pixels' is \(3, 16, 16\).*but \(3, 20, 20\)"):
        jepa.make_state(dataclasses.replace(config, data=(data[0], str(other))))


def right(env: EnvBase) -> TensorDictModule:
    """A policy that always goes to the right."""
    return TensorDictModule(
        lambda pixels: torch.tensor([1.0, 0.0]).expand(*pixels.shape[:-3], 2), ["pixels"], ["action"]
    )


def test_a_given_policy_collects(tmp_path: Path) -> None:
    state = jepa.make_state(make("room", tmp_path, policy=f"{__name__}:right"))
    loop.step(jepa.RECIPE, state)
    rows = state.source.replay.entries("previous_action", "is_init")
    arrived = rows["previous_action"][~rows["is_init"].squeeze(-1)]
    assert arrived.tolist() == [[1.0, 0.0]] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "", "data": ""}, "learns from an environment .* or from recorded episodes"),
        ({"frame_skip": 0}, r"frame_skip must be a whole number in \[1, 1000\], got 0"),
        ({"held_out": 1.0}, r"held_out must be a share in \[0, 1\)"),
        ({"data": "somewhere", "policy": "a:b"}, r"policy='a:b' would collect, but data=\['somewhere'\]"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**{"env": ROOM, **changes})


def test_a_policy_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"policy must be .*'nowhere:make' is not: No module named 'nowhere'"):
        jepa.make_state(make("room", tmp_path, policy="nowhere:make"))


def test_an_environment_that_shows_something_else_than_the_recording_is_refused(tmp_path: Path) -> None:
    data = write_episodes(tmp_path / "large", size=20)
    with pytest.raises(ValueError, match=r"differ in their observations: .*16, 16.* in the environment, .*20, 20"):
        jepa.make_state(make("recorded", tmp_path, data=str(data), env=ROOM, frame_skip=1))


# ------------------------------------------------------------------ what a run can be asked


class Still(JEPA):
    """Foresees no change."""

    def predict_latent(self, latent: Latent, action: Tensor, noise: Any) -> Prediction:
        ones = torch.ones(*latent["length"].shape, 1)
        return Prediction(latent, ones, ones)


def test_foreseeing_no_change_has_an_error_of_one(tmp_path: Path) -> None:
    config = make("recorded", tmp_path)
    model = jepa.make_state(config).model
    rows = [jepa.RECIPE.new_rows(config, model, seed, 100) for seed in range(3)]
    still = Still(model.config, model.observation_spec, model.action_spec).eval()
    found = jepa.foresight(still, rows, 3)
    assert found["prediction_error_1_ahead"] == pytest.approx(1.0)
    assert found["prediction_error_3_ahead"] == pytest.approx(1.0)
    assert found["z_std"] > 0
    with pytest.raises(ValueError, match="No episode has 100 frames"):
        jepa.foresight(still, rows, 99)


def test_a_recorded_run_answers_eval_and_imagine_and_says_why_not_report_and_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_episodes(tmp_path / "episodes")
    run = tmp_path / "run"
    overrides = [f"--overrides={SMALL[0]}", *SMALL[1:]]
    arguments = ["--data", str(data), "--steps", "6", "--run-directory", str(run)]
    cli.main(["train", "jepa", *arguments, *overrides])
    told = capsys.readouterr().out
    assert "learns without rewards from 4 episodes with 60 frames, 1 held out" in told
    assert "worldloom report" not in told
    for file in ("curve.png", "imagination.png", "README.md", "metrics.csv", "result.json"):
        assert (run / file).stat().st_size > 0
    assert (run / "metrics.csv").read_text().startswith("updates,")
    cli.main(["eval", str(run), "--episodes", "2"])
    told = capsys.readouterr().out
    assert "prediction_error_1_ahead" in told
    assert "no goals to plan to" in told
    for command, words in (("report", "JEPA learns nothing"), ("compare", "tells of no episode's return")):
        with pytest.raises(SystemExit):
            cli.main([command, str(run)])
        assert words in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning")  # minari misses descriptions and authors of the dataset
def test_a_model_of_a_minari_dataset_plans_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env, episodes = gymnasium.make(ROOM), []
    for seed in range(3):
        observations, actions, done = [env.reset(seed=seed)[0]], [], False
        env.action_space.seed(seed)
        while not done:
            actions.append(env.action_space.sample())
            observation, _, _, done, _ = env.step(actions[-1])
            observations.append(observation)
        pixels = np.stack([row["pixels"] for row in observations])
        goal = np.stack([row["goal"]["pixels"] for row in observations])
        nothing = [False] * len(actions)
        episodes.append(
            EpisodeBuffer(
                observations={"pixels": pixels, "goal": {"pixels": goal}},
                actions=np.stack(actions),
                rewards=[0.0] * len(actions),
                terminations=nothing,
                truncations=[*nothing[:-1], True],
            )
        )
    described = {"observation_space": env.observation_space, "action_space": env.action_space}
    minari.create_dataset_from_buffers("test/room-v0", episodes, **described)
    config = make("room", tmp_path, env=ROOM, data="minari:test/room-v0", steps=6, frame_skip=2)
    result = json.loads((loop.train(jepa.RECIPE, config).path / "result.json").read_text())
    assert result["agent_steps"] == 0
    assert result["updates"] == 6
    final = result["evaluations"][-1]
    assert final["lengths"] == [10, 10]  # blocks of two actions
    assert len(final["successes"]) == 2


def test_a_run_in_a_room_with_goals_is_judged_by_planning_and_compared_by_updates(tmp_path: Path) -> None:
    config = make("room", tmp_path, steps=6)
    run = jepa.train(config)
    result = json.loads((run.path / "result.json").read_text())
    assert result["clock"] == "updates"
    assert [evaluation["updates"] for evaluation in result["evaluations"]] == [0, 6]
    assert len(result["final_returns"]) == 2
    assert len(result["evaluations"][-1]["successes"]) == 2
    cli.main(["compare", str(run.path), "--output", str(tmp_path / "compare.png")])
    assert (tmp_path / "compare.png").stat().st_size > 0
