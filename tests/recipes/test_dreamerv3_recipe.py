"""The DreamerV3 recipe: a short run, going on from its checkpoint, and what it does with wrong numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from worldloom_rl import AutoWorldModel, cli
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes import dreamerv3
from worldloom_rl.recipes.dreamerv3 import Config, make_losses, make_optimizer, update
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state, save_state

SMALL = (
    "deterministic=16", "hidden=8", "groups=2", "classes=4", "blocks=2", "units=8", "num_bins=21", "batch_size=4",
    "batch_length=8", "horizon=3", "updates_per_step=0.2",
)  # fmt: skip

# Where evaluations are not what is asked.
BRIEF = {"eval_every": 100, "eval_episodes": 1, "final_eval_episodes": 1, "first_evaluation": False}


def small(directory: Path, **changes: object) -> Config:
    values = {
        "env": "CartPole-v1", "time_limit": 40, "steps": 60, "overrides": SMALL, "eval_every": 40, "eval_episodes": 2,
        "final_eval_episodes": 3, "checkpoint_every": 50, "run_directory": str(directory),
    }  # fmt: skip
    return Config(**{**values, **changes})  # type: ignore[arg-type]


def rows(model: DreamerV3, batch: int = 4) -> TensorDict:
    shape = (batch, model.config.batch_length + model.config.replay_context)
    td = model.observation_spec.rand(torch.Size(shape))
    td.update(model.action_spec.rand(torch.Size(shape)).rename_key_("action", "previous_action"))
    td["reward"] = torch.randn(*shape, 1)
    for flag in ("terminated", "truncated", "is_init"):
        td[flag] = torch.zeros(*shape, 1, dtype=torch.bool)
    return model.write_latent(td, model.initial_latent(shape))


def tiny_model() -> DreamerV3:
    torch.manual_seed(0)
    return DreamerV3(find_preset("dreamerv3:tiny")[1], *DreamerV3.default_specs())


def test_train_writes_a_result_and_a_model_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = dreamerv3.train(small(tmp_path / "run"))
    result = json.loads((run.path / "result.json").read_text())
    assert result["recipe"] == "dreamerv3"
    assert result["agent_steps"] == 60
    assert result["updates"] == pytest.approx(0.2 * (60 - 32), abs=1)
    assert len(result["final_returns"]) == 3
    assert isinstance(AutoWorldModel.from_pretrained(run.checkpoints.latest() / "model"), DreamerV3)
    assert "train_ratio 6.4" in capsys.readouterr().out

    picture = tmp_path / "elsewhere.png"
    cli.main(["imagine", str(run.path), "--context", "2", "--horizon", "3", "--output", str(picture)])
    assert "2 steps of a new episode observed, the next 3 imagined." in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        cli.main(["imagine", str(run.path), "--context", "0"])
    assert "--context must be a whole number in [1, 10000], got 0" in capsys.readouterr().err


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_several_environments_are_stepped_side_by_side(env: str, tmp_path: Path) -> None:
    run = dreamerv3.train(small(tmp_path / "run", env=env, num_envs=3, steps=45, **BRIEF))
    assert json.loads((run.path / "result.json").read_text())["agent_steps"] == 45


def test_resume_goes_on_with_weights_optimiser_replay_and_counters(tmp_path: Path) -> None:
    config = small(tmp_path / "run", **BRIEF)
    run = dreamerv3.train(config)
    first, second = (load_state(dreamerv3.RECIPE, config, run.checkpoints.latest()) for _ in range(2))
    for state in (first, second):
        assert (state.agent_steps, state.updates) == (60, first.updates)
        assert state.optimizer.param_groups[0]["updates"] == state.updates > 0
    torch.testing.assert_close(first.sample(), second.sample(), rtol=0, atol=0)
    for state in (first, second):
        state.close()


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    runs = [dreamerv3.train(small(tmp_path / str(number), seed=number // 2, steps=45, **BRIEF)) for number in range(3)]
    returns = [json.loads((run.path / "result.json").read_text())["evaluations"] for run in runs]
    assert returns[0] == returns[1] != returns[2]


@pytest.mark.parametrize("key", ["reward", "pixels"])
def test_a_number_that_is_not_finite_stops_with_the_term_and_the_key_and_leaves_the_weights(key: str) -> None:
    model = tiny_model()
    losses, optimizer = make_losses(model), make_optimizer(model)
    batch = rows(model)
    if key == "reward":
        batch["reward"][1, 3] = torch.nan
    else:
        with torch.no_grad():
            model.encoder.image[0].bias.fill_(torch.nan)
    before = copy.deepcopy(model.state_dict())
    expected = (
        r"'loss_reward' .*\['reward'\]" if key == "reward" else r"'loss_dynamics' .*nor are the weights 'encoder.image"
    )
    with pytest.raises(FloatingPointError, match=expected):
        update(losses, optimizer, batch)
    for name, value in model.state_dict().items():
        if "return_range" not in name:
            assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_a_run_that_meets_a_nan_keeps_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path / "run", steps=80)
    state = dreamerv3.make_state(config)
    while state.updates < 2:
        loop.step(dreamerv3.RECIPE, state)
    saved = tmp_path / "good"
    saved.mkdir()
    save_state(dreamerv3.RECIPE, state, saved)
    state.source.replay._storage._storage["observation"].fill_(torch.nan)
    state.updates_due = 1.0
    with pytest.raises(FloatingPointError, match="'observation'"):
        loop.step(dreamerv3.RECIPE, state)
    assert load_state(dreamerv3.RECIPE, config, saved).updates == 2
    state.close()
