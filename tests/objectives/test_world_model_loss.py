"""WorldModelLoss: weights in one place, names checked, keys renamed."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from worldloom_rl import WorldModelLoss
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.pretrained.registry import find_preset

WEIGHTS = {"consistency": 20.0, "reward": 0.1, "value": 0.1}


@pytest.fixture
def model() -> TDMPC2:
    torch.manual_seed(0)
    return TDMPC2(find_preset("tdmpc2:tiny")[1], *TDMPC2.default_specs()).eval()


def rows() -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    return TensorDict(
        {
            "observation": torch.randn(4, 4, 39, generator=generator),
            "previous_action": torch.rand(4, 4, 6, generator=generator),
            "reward": torch.randn(4, 4, 1, generator=generator),
            "terminated": torch.zeros(4, 4, 1, dtype=torch.bool),
        },
        batch_size=[4, 4],
    )


def losses_of(loss: WorldModelLoss, batch: TensorDict) -> TensorDict:
    torch.manual_seed(0)
    losses, _ = loss(batch)
    return losses


def test_each_loss_is_its_weight_times_the_mean_of_the_models_term(model: TDMPC2) -> None:
    losses = losses_of(WorldModelLoss(model, WEIGHTS), rows())
    torch.manual_seed(0)
    terms, _ = model.compute_loss(rows())
    assert terms["reward"].shape == (4, 3)
    for name, weight in WEIGHTS.items():
        torch.testing.assert_close(losses[f"loss_{name}"], weight * terms[name].mean())


@pytest.mark.parametrize("weights", [{"consistency": 1.0}, {**WEIGHTS, "termination": 1.0}])
def test_weights_must_name_exactly_the_models_terms(model: TDMPC2, weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="but weights are given for"):
        WorldModelLoss(model, weights)(rows())


def test_set_keys_finds_entries_under_nested_names_and_leaves_the_rows_alone(model: TDMPC2) -> None:
    expected = losses_of(WorldModelLoss(model, WEIGHTS), rows())
    renamed = rows().rename_key_("reward", ("mine", "reward")).rename_key_("terminated", "ended")
    loss = WorldModelLoss(model, WEIGHTS)
    loss.set_keys(reward=("mine", "reward"), terminated="ended")
    assert (losses_of(loss, renamed) == expected).all()
    assert set(renamed.keys()) == {"observation", "previous_action", "mine", "ended"}


def test_the_weights_of_the_model_are_not_copied_into_the_loss(model: TDMPC2) -> None:
    loss = WorldModelLoss(model, WEIGHTS)
    ours = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in loss.parameters()} == ours
