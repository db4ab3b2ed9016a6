"""The token world model's recipe: a short run, whose turn it is to learn, and what it does with wrong numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from worldloom_rl import AutoWorldModel, cli
from worldloom_rl.models.tokens import TokenWorldModel
from worldloom_rl.recipes import tokens
from worldloom_rl.recipes.tokens import Config, make_losses, make_optimizer, update
from worldloom_rl.training.checkpoint import load_state
from worldloom_rl.training.overrides import preset_config

SMALL = (
    "batch_size=4", "depth=2", "width=16", "attention_heads=2", "units=8", "horizon=2", "min_seed_steps=20",
    "tokenizer_updates=5", "behavior_start=10", "updates_per_step=0.5",
)  # fmt: skip


def small(directory: Path, **changes: object) -> Config:
    values = {
        "env": "worldloom/Catch-v0", "time_limit": 20, "steps": 70, "overrides": SMALL, "eval_every": 50,
        "eval_episodes": 2, "final_eval_episodes": 3, "checkpoint_every": 60, "run_directory": str(directory),
    }  # fmt: skip
    return Config(**{**values, **changes})  # type: ignore[arg-type]


def make(quantizer: str = "vq-ema") -> tuple[TokenWorldModel, TensorDict]:
    torch.manual_seed(0)
    config = preset_config("tokens", "tiny", (*SMALL, f'quantizer="{quantizer}"', "vocabulary=8"))
    model = TokenWorldModel(config, *TokenWorldModel.default_specs()).eval()
    shape = torch.Size([4, model.config.context + 1])
    rows = model.observation_spec.rand(shape)
    rows.update(model.action_spec.rand(shape).rename_key_("action", "previous_action"))
    rows["reward"] = torch.randn(*shape, 1)
    for flag in ("terminated", "truncated", "is_init"):
        rows[flag] = torch.zeros(*shape, 1, dtype=torch.bool)
    return model, rows


def weights(part: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in part.state_dict().items()}


def test_train_writes_a_result_and_a_model_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(tmp_path / "run")
    cli.main(
        ["train", "tokens", "--env", config.env, "--time-limit", "20", "--steps", "70", "--overrides", *SMALL,
         "--eval-every", "50", "--eval-episodes", "2", "--final-eval-episodes", "3",
         "--run-directory", str(tmp_path / "run")]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "16 tokens a frame of 125 codes" in printed
    assert "5 steps of a new episode observed, the next 16 imagined." in printed
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["recipe"] == "tokens"
    assert result["agent_steps"] == 70
    assert result["updates"] == 25
    assert len(result["final_returns"]) == 3
    newest = max((run / "checkpoints").iterdir())
    assert isinstance(AutoWorldModel.from_pretrained(newest / "model"), TokenWorldModel)
    state = load_state(tokens.RECIPE, config, newest)
    assert state.updates == 25
    assert "latent" not in state.sample()  # frames are read anew
    state.close()
    cli.main(["report", str(run), "--episodes", "2", "--steps", "20", "--ensemble-updates", "3"])
    assert (run / "report" / "index.html").is_file()
    assert "reward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("updates", "learning"),
    [(0, {"tokenizer"}), (4, {"tokenizer"}), (5, {"dynamics"}), (10, {"dynamics", "behavior"})],
)
@pytest.mark.parametrize("quantizer", ["vq-ema", "fsq"])
def test_each_part_learns_when_it_is_its_turn(quantizer: str, updates: int, learning: set[str]) -> None:
    model, rows = make(quantizer)
    losses, optimizer = make_losses(model), make_optimizer(model)
    before = {part: weights(getattr(model, part)) for part in ("tokenizer", "dynamics", "behavior")}
    metrics = update(losses, optimizer, rows, updates)
    changed = {
        part
        for part, values in before.items()
        if any(not torch.equal(value, values[name]) for name, value in weights(getattr(model, part)).items())
    }
    assert changed == learning
    assert ("loss_actor" in metrics) == ("behavior" in learning)
    assert all(value.isfinite().all() for value in metrics.values())
    assert not model.training


def test_without_turns_everything_learns_together() -> None:
    torch.manual_seed(0)
    model, rows = make("vq")
    config = preset_config("tokens", "tiny", (*SMALL[:7], "tokenizer_updates=0", "behavior_start=0"))
    model = TokenWorldModel(config, model.observation_spec, model.action_spec).eval()
    losses, optimizer = make_losses(model), make_optimizer(model)
    before = weights(model)
    update(losses, optimizer, rows, 0)
    still = {name for name, value in weights(model).items() if torch.equal(value, before[name])}
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # Heads that start at zero give no gradient to what stands before them in the first update.
    zero = ("dynamics.reward_head", "behavior.critic")
    assert not {name for name in still & learned if not name.startswith(zero)}


def test_the_tokenizers_learning_rate_falls_in_the_second_half_of_its_updates() -> None:
    model, rows = make("fsq")
    losses, optimizer = make_losses(model), make_optimizer(model)
    rates = []
    for updates in range(5):
        update(losses, optimizer, rows, updates)
        rates.append(optimizer.param_groups[0]["lr"] / model.config.tokenizer_learning_rate)
        assert optimizer.param_groups[2]["lr"] == model.config.learning_rate
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.8, 0.4])


def test_a_loss_that_is_not_finite_makes_no_update() -> None:
    model, rows = make()
    losses, optimizer = make_losses(model), make_optimizer(model)
    before = copy.deepcopy(model.state_dict())
    rows["reward"][0, 1] = torch.nan
    with pytest.raises(FloatingPointError, match="loss_reward"):
        update(losses, optimizer, rows, 7)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_environment_without_images_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "tokens", "--env", "CartPole-v1"])
    assert stopped.value.code == 2
    assert "Observe pixels only, or choose another family." in capsys.readouterr().err.replace("\n", " ")
