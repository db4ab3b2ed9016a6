"""The TD-MPC2 recipe and the command line around it, with budgets of seconds."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch

from worldloom_rl import AutoWorldModel, cli
from worldloom_rl.recipes import tdmpc2
from worldloom_rl.recipes.tdmpc2 import Config
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state
from worldloom_rl.training.run_directory import RunDirectory

SMALL = ("num_samples=16", "num_elites=4", "num_policy_trajectories=2", "iterations=2", "batch_size=16")

# Where evaluations are not what is asked.
BRIEF = {"eval_episodes": 1, "final_eval_episodes": 1, "first_evaluation": False}


def small(run_directory: Path, **changes: object) -> Config:
    """Pendulum with episodes of 20 agent steps: 40 random ones and 20 planned ones."""
    values: dict[str, object] = {
        "env": "Pendulum-v1",
        "overrides": SMALL,
        "seed_steps": 40,
        "action_repeat": 2,
        "time_limit": 40,
        "steps": 60,
        "eval_episodes": 2,
        "final_eval_episodes": 3,
        "run_directory": str(run_directory),
    }
    return Config(**{**values, **changes})  # type: ignore[arg-type]


def arguments(config: Config) -> list[str]:
    return [
        "train", "tdmpc2", "--env", config.env, "--overrides", *config.overrides, "--action-repeat", "2",
        "--time-limit", "40", "--steps", "60", "--seed-steps", "40", "--eval-episodes", "2",
        "--final-eval-episodes", "3",
        "--run-directory", str(config.run_directory),
    ]  # fmt: skip


def test_train_writes_the_run_directory_and_tells_how_to_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path / "run")
    cli.main(arguments(config))
    printed = capsys.readouterr().out
    for command in ("eval", "imagine", "report", "resume"):
        assert f"worldloom {command} {tmp_path / 'run'} " in printed
    assert (tmp_path / "run" / "imagination.png").read_bytes().startswith(b"\x89PNG")
    assert "library_name: worldloom-rl" in (tmp_path / "run" / "README.md").read_text()
    run = RunDirectory(tmp_path / "run")
    result = json.loads((run.path / "result.json").read_text())
    assert result["agent_steps"] == 60
    assert result["environment_steps"] == 120
    assert result["updates"] == 60  # at once as many as there were seed steps, then one a step
    assert [len(entry["returns"]) for entry in result["evaluations"]] == [2, 3]
    assert result["final_mean_return"] == pytest.approx(sum(result["final_returns"]) / 3)
    assert {"commit", "tree", "machine", "versions", "training_seconds", "config", "model_config"} <= set(result)
    assert (run.path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((run.path / "logs").rglob("*.csv"))
    assert list((run.path / "logs").rglob("events.out.tfevents*"))
    model = AutoWorldModel.from_pretrained(run.checkpoints.latest() / "model")
    assert model.config.discount == 0.95  # 20 agent steps an episode

    cli.main(["eval", str(run.path), "--episodes", "2", "--seeds", "7", "8"])
    assert "4 episodes: mean return" in capsys.readouterr().out
    for seed in (7, 8):
        assert len(json.loads((run.path / f"evaluation-seed{seed}.json").read_text())["returns"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["eval", str(run.path), "--seeds", "7", "7"])
    assert "each only once" in capsys.readouterr().err

    cli.main(["imagine", str(run.path), "--samples", "2", "--memories", "5"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Wrote {run.path / 'imagination.png'}: 5 steps of a new episode observed, the next 16 imagined." in printed
    assert "Look at where the latent error" in printed
    assert "nearest memory, not a prediction" in printed
    assert (run.path / "imagination.gif").read_bytes().startswith(b"GIF")
    assert (run.path / "imagination.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        cli.main(["imagine", str(run.path), "--context", "5", "--horizon", "17"])
    assert "has 21 observations, but context 5 and horizon 17 need 22" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run = tdmpc2.train(small(tmp_path / name, seed=seed, **BRIEF))
        results.append(json.loads((run.path / "result.json").read_text())["final_returns"])
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_resume_goes_on_with_weights_optimisers_replay_and_counters(tmp_path: Path) -> None:
    config = small(tmp_path / "run", checkpoint_every=50, **BRIEF)
    run = tdmpc2.train(config)
    first, last = run.checkpoints.all()
    assert (first.name, last.name) == ("step_000000050_000000050", "step_000000060_000000060")
    before = load_state(tdmpc2.RECIPE, config, last)
    again = load_state(tdmpc2.RECIPE, config, last)
    try:
        assert before.updates == 60
        assert len(before.source.replay) == 60 + 3  # one row more than steps an episode
        assert before.optimizers.model.state_dict()["state"][0]["step"] == 60
        assert before.source.episode_returns == again.source.episode_returns
        torch.testing.assert_close(
            before.source.replay.sample()["reward"], again.source.replay.sample()["reward"], rtol=0, atol=0
        )
    finally:
        before.close()
        again.close()

    # A run that was stopped: without its last checkpoint and its result.
    for file in sorted(last.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    last.rmdir()
    (run.path / "result.json").unlink()
    cli.main(["resume", str(run.path)])
    result = json.loads((run.path / "result.json").read_text())
    assert result["agent_steps"] == 60
    assert result["updates"] == 60


def test_training_ends_when_an_evaluation_reaches_the_target_return(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tdmpc2.train(small(tmp_path / "run", steps=300, eval_every=50, target_return=-1e6))
    assert re.search(r"evaluating  \d+/300 .*  evaluation -\d", capsys.readouterr().out)  # the one before, live
    result = json.loads((run.path / "result.json").read_text())
    reached, final = result["evaluations"][-2:]
    assert result["updates"] > 0
    assert result["agent_steps"] == reached["agent_steps"] == final["agent_steps"] < 300
    assert final["returns"] != reached["returns"][: len(final["returns"])]
    cli.main(["resume", str(run.path)])  # it is at its end
    assert json.loads((run.path / "result.json").read_text())["updates"] == result["updates"]


def test_a_run_that_ends_before_it_learns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps is 100, but learning starts after 200 agent steps: give more steps"):
        tdmpc2.train(small(tmp_path / "run", steps=100, seed_steps=200))


def test_several_environments_are_stepped_side_by_side(tmp_path: Path) -> None:
    run = tdmpc2.train(small(tmp_path / "run", num_envs=4, time_limit=20, **BRIEF))
    result = json.loads((run.path / "result.json").read_text())
    assert result["agent_steps"] == 60
    assert result["updates"] == 60


def test_discrete_actions_and_terminal_states(tmp_path: Path) -> None:
    config = small(tmp_path / "run", env="CartPole-v1", action_repeat=1, episodic=True, time_limit=20)
    result = json.loads((tdmpc2.train(config).path / "result.json").read_text())
    assert all(1 <= length <= 20 for length in result["evaluations"][-1]["lengths"])
    assert result["model_config"]["episodic"] is True


def test_a_terminal_state_without_a_termination_head_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--episodic"):
        tdmpc2.train(small(tmp_path / "run", env="CartPole-v1", action_repeat=1, steps=300, episodic=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "tdmpc2", "--env", "Pendulun-v1"], "Did you mean Pendulum-v1"),
        (["train", "tdmpc2", "--env", "Pendulum-v1", "--preset", "tinny"], "Did you mean 'tdmpc2:tiny'"),
        (["train", "tdmpc2", "--env", "Pendulum-v1", "--overrides", "horizon=0"], "horizon must be a whole number in"),
        (["train", "tdmpc2", "--env", "Pendulum-v1", "--overrides", "horzon=3"], "Did you mean 'horizon'"),
        (["train", "tdmpc2", "--env", "Pendulum-v1", "--overrides", "num_elites=999"], "num_samples"),
        (
            ["train", "tdmpc2", "--env", "Pendulum-v1", "--steps", "0"],
            "--steps must be a whole number in [1, 1000000000], got 0",
        ),
        (["eval", "nowhere"], "not a run directory"),
        (["resume", "nowhere"], "not a run directory"),
        (["imagine", "nowhere"], "not a run directory"),
        (["tarin"], "'tarin' is no command of worldloom. Perhaps you meant 'train'."),
    ],
)
def test_a_mistake_on_the_command_line_ends_with_its_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    # Some are told in a box, whose border stands at the ends of lines.
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_directory_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", "name", "tdmpc2", {})
    with pytest.raises(FileExistsError, match="worldloom resume"):
        RunDirectory.create(tmp_path / "run", "name", "tdmpc2", {})


def test_list_names_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list", "tdmpc2:*"])
    assert capsys.readouterr().out.split() == [f"tdmpc2:{size}" for size in ("tiny", "1m", "5m", "19m", "48m", "317m")]


def test_a_profile_tells_where_the_time_of_a_training_step_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tdmpc2.train(small(tmp_path / "run", profile=True, steps=50, **BRIEF))
    profile = json.loads((run.path / "profile.json").read_text())
    assert profile["agent_steps"] == 50
    seconds = profile["seconds"]
    assert list(seconds) == ["environment", "acting", "sampling", "update", "other"]
    assert all(value > 0 for value in seconds.values())
    training = json.loads((run.path / "result.json").read_text())["training_seconds"]
    assert sum(seconds.values()) == pytest.approx(training, abs=1.0)
    assert "Time of a training step" in capsys.readouterr().out


def test_compiling_without_a_compiler_goes_on_in_eager_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX", raising=False)
    run = tdmpc2.train(small(tmp_path / "run", compile=True, steps=42, **BRIEF))
    assert json.loads((run.path / "result.json").read_text())["updates"] == 42
    assert "Not compiled, training goes on as it is" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("wrong", "named"), [("reward", "'loss_reward'.*'reward'"), ("scale", "'loss_policy'")])
def test_a_loss_that_is_not_finite_is_named_and_leaves_every_weight(wrong: str, named: str, tmp_path: Path) -> None:
    state = tdmpc2.make_state(small(tmp_path / "run"))
    while state.updates < 2:
        loop.step(tdmpc2.RECIPE, state)
    batch = state.sample()
    if wrong == "reward":
        batch["reward"][3, 2] = torch.nan
    else:
        for value in state.policy_loss.scale.state_dict().values():
            value.fill_(torch.nan)
    before = copy.deepcopy(state.model.state_dict())
    counts = [optimizer.state_dict()["state"][0]["step"].item() for optimizer in optimizers(state)]
    with pytest.raises(FloatingPointError, match=named):
        tdmpc2.update(state.model, state.world_model_loss, state.policy_loss, state.optimizers, batch)
    changed = {name for name, value in state.model.state_dict().items() if not torch.equal(value, before[name])}
    if wrong == "reward":
        assert not changed
        assert counts == [optimizer.state_dict()["state"][0]["step"].item() for optimizer in optimizers(state)]
    else:  # the model's losses were finite and it has made its step
        assert not any("policy" in name or "target" in name for name in changed)
    assert all(bool(value.isfinite().all()) for value in state.model.state_dict().values())
    state.close()


def optimizers(state: tdmpc2.State) -> tuple[torch.optim.Adam, torch.optim.Adam]:
    return state.optimizers.model, state.optimizers.policy


def test_a_run_that_meets_a_nan_stops_with_its_name_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(tdmpc2.TDMPC2Recipe):
        def update(self, state: tdmpc2.State) -> dict[str, torch.Tensor]:
            if state.updates == 20:
                state.source.replay.storage[:]["reward"].fill_(torch.nan)
            return super().update(state)

    config = small(tmp_path / "run", steps=60)
    with pytest.raises(FloatingPointError, match=r"'loss_reward' is not finite.*There is no checkpoint yet"):
        loop.train(Broken(), config)
    assert not RunDirectory(tmp_path / "run").checkpoints.all()
