"""Runs that explore: who learns from what, going on bit for bit, and the task's reward afterwards."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_dreamerv3_recipe import BRIEF, SMALL, rows, small
from torchrl.data import Categorical, Composite, Unbounded

from worldloom_rl import cli
from worldloom_rl.commands.finetune import fine_tuning
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.recipes import dreamerv3, dreamerv3_finetune
from worldloom_rl.recipes.dreamerv3 import compute_losses, make_ensemble, make_losses, make_optimizer, update
from worldloom_rl.recipes.finetune_options import FineTunedDreamerV3RunConfig, FineTuneOptions
from worldloom_rl.recipes.options import DreamerV3RunConfig
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state, save_state


def small_model() -> DreamerV3:
    torch.manual_seed(0)
    config = DreamerV3RunConfig(env="CartPole-v1", overrides=SMALL).model_config
    return DreamerV3(config, Composite(observation=Unbounded((5,))), Composite(action=Categorical(4)))


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few updates that explored."""
    directory = tmp_path_factory.mktemp("explored") / "run"
    return dreamerv3.train(small(directory, **BRIEF, explore=True, steps=50)).path


def test_actor_and_critic_learn_from_disagreement_and_the_reward_head_from_the_reward() -> None:
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # heads that start at zero say the same of all rewards
    losses = make_losses(model, make_ensemble(model))
    assert losses.actor_critic.entropy_coef == 10 * make_losses(model).actor_critic.entropy_coef
    losses.ensemble.unit.fill_(1.0)
    for each in (losses.actor_critic, losses.disagreement):
        each.eval()  # what runs along stays
    batch, found = rows(model), {}
    for name in ("as it is", "richer"):
        batch["reward"] += 10.0 * (name == "richer")
        torch.manual_seed(1)
        found[name], metrics, _ = compute_losses(losses, batch)
        assert metrics["imagined_reward"] > -1
    differ = {name for name in found["richer"] if not torch.equal(found["richer"][name], found["as it is"][name])}
    assert differ == {"loss_reward"}
    assert "loss_disagreement" in found["richer"]


def test_one_update_moves_the_members_and_all_else() -> None:
    model = small_model()
    ensemble = make_ensemble(model)
    losses, optimizer = make_losses(model, ensemble), make_optimizer(model, ensemble)
    before = {name: value.clone() for name, value in ensemble.named_parameters()}
    for _ in range(2):  # the first one has the learning rate 0
        metrics, _ = update(losses, optimizer, rows(model))
    assert metrics["disagreement"] > 0
    assert not any(torch.equal(before[name], value) for name, value in ensemble.named_parameters())


def test_without_exploring_nothing_is_built_or_drawn(tmp_path: Path) -> None:
    model, before = small_model(), torch.get_rng_state()
    losses, optimizer = dreamerv3.make_learning(small(tmp_path), model)
    assert losses.ensemble is None
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(
        parameter.requires_grad for parameter in model.parameters()
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = small(tmp_path / "run", explore=True)
    state = dreamerv3.make_state(config)
    while state.updates < 3:
        loop.step(dreamerv3.RECIPE, state)
    assert "learn from disagreement, not from the reward" in dreamerv3.RECIPE.describe(state)
    (tmp_path / "saved").mkdir()
    save_state(dreamerv3.RECIPE, state, tmp_path / "saved")
    while state.updates < 6:
        loop.step(dreamerv3.RECIPE, state)
    resumed = load_state(dreamerv3.RECIPE, config, tmp_path / "saved")
    while resumed.updates < 6:
        loop.step(dreamerv3.RECIPE, resumed)
    for ours, theirs in ((state.model, resumed.model), (state.losses.ensemble, resumed.losses.ensemble)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert all(torch.equal(state.metrics[name], resumed.metrics[name]) for name in state.metrics)
    assert state.losses.ensemble.unit > 0
    state.close()
    resumed.close()


def test_an_older_run_s_configuration_explored_not(explored: Path, tmp_path: Path) -> None:
    told = json.loads((explored / "config.json").read_text())
    assert told["config"].pop("explore") is True
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert loop.read_config(dreamerv3.RECIPE, loop.RunDirectory(tmp_path)).explore is False


def test_the_task_is_learned_afterwards_by_the_actor_that_knows_its_way_and_a_new_critic(
    explored: Path, tmp_path: Path
) -> None:
    options = FineTuneOptions(started_from=str(explored), env="CartPole-v1", run_directory=str(tmp_path / "tuned"))
    recipe, config = fine_tuning(options)
    assert isinstance(config, FineTunedDreamerV3RunConfig)
    assert not config.explore
    assert config.found[0].endswith("not its --explore")
    old = DreamerV3.from_pretrained(loop.RunDirectory(explored).checkpoints.latest() / "model")
    state = recipe.make_state(config)
    assert state.losses.ensemble is None
    anew = ("behavior.critic.", "behavior.slow_critic.", "behavior.return_range.")
    for name, value in state.model.state_dict().items():
        assert name.startswith(anew) or torch.equal(value, old.state_dict()[name]), name
    assert old.behavior.critic.output.weight.abs().sum() > 0
    assert state.model.behavior.critic.output.weight.abs().sum() == 0
    assert old.behavior.return_range.high > 0
    assert state.model.behavior.return_range.high == 0
    state.close()
    told = dataclasses.replace(config, began_as=(), run_directory=str(tmp_path / "other"))  # of one that explored not
    state = dreamerv3_finetune.make_state(told)
    assert torch.equal(state.model.behavior.critic.output.weight, old.behavior.critic.output.weight)
    state.close()


def test_what_cannot_explore_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="explore seeks new rows, but recorded data is learned from"):
        DreamerV3RunConfig(env="CartPole-v1", explore=True, data=("runs/a",))
    for family in ("tdmpc2", "jepa", "tokens"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", family, "--env", "CartPole-v1", "--explore"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "--explore" in said
