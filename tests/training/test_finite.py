"""A number that is not finite stops a run before the weights, and the message says whose number it was."""

from __future__ import annotations

import copy

import pytest
import torch
from family_work import ROWS, UPDATES, make_model, make_rows, make_update
from tensordict import TensorDict
from torch import nn

from worldloom_rl.training.finite import check_finite, gradient_norm

FINE = {"loss_reward": torch.tensor(1.0)}
LOST = {"loss_value": torch.tensor(1.0), "loss_reward": torch.tensor(torch.nan)}


def rows(**changes: torch.Tensor) -> TensorDict:
    entries = {"observation": torch.zeros(2, 3), "reward": torch.zeros(2, 1), ("latent", "token"): torch.zeros(2, 4)}
    return TensorDict({**entries, **changes}, [2])


def spoiled(*shape: int, value: float = torch.nan) -> torch.Tensor:
    tensor = torch.zeros(*shape)
    tensor[0, 0] = value
    return tensor


@pytest.mark.parametrize(
    ("batch", "weight", "said"),
    [
        (rows(), 1.0, "all observations, actions and rewards of the batch are finite: it is the model that went wrong"),
        (rows(reward=spoiled(2, 1)), 1.0, r"the batch holds others under \['reward'\]: mend the environment"),
        (rows(reward=spoiled(2, 1)), torch.nan, r"the batch holds others under \['reward'\]: mend the environment"),
        (rows(), torch.inf, "nor are the weights 'bias': it is the model that went wrong: --overrides learning_rate=…"),
        # An observation of −∞ may be a missing one; latents are the model's own.
        (rows(observation=spoiled(2, 3, value=-torch.inf)), 1.0, r"the batch holds −∞ under \['observation'\]: mend"),
        (rows(observation=spoiled(2, 3, value=-torch.inf)), torch.nan, "nor are the weights 'bias'"),
        (rows(**{"latent": TensorDict({"token": spoiled(2, 4)}, [2])}), torch.nan, "nor are the weights 'bias'"),
    ],
)
def test_what_made_a_loss_not_finite_is_named_and_the_environment_is_not_blamed_for_the_model(
    batch: TensorDict, weight: float, said: str
) -> None:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.bias.fill_(weight)
    check_finite(FINE, batch, model)
    with pytest.raises(FloatingPointError, match=rf"^'loss_reward' is not finite \(1 of 2 are not\); {said}"):
        check_finite(LOST, batch, model)


def test_a_gradient_that_is_not_finite_is_named_by_its_weights() -> None:
    model = nn.Linear(2, 1)
    model(torch.zeros(1, 2)).sum().backward()
    assert gradient_norm(model.parameters()).item() == 1.0  # of the bias
    assert model.weight.grad is not None
    model.weight.grad[0, 1] = -torch.inf
    with pytest.raises(FloatingPointError, match="The gradient of 'weight' is not finite, though all losses are; all "):
        check_finite({**FINE, "grad_norm": gradient_norm(model.parameters())}, rows(), model)


@pytest.mark.parametrize("family", sorted(UPDATES))
def test_an_infinite_gradient_reaches_no_weight_of_any_family(family: str) -> None:
    model = make_model(family)
    batch = make_rows(model, *ROWS[family])
    part = "dynamics" if family == "tokens" else ""  # its tokenizer has learned before
    name, parameter = next((n, p) for n, p in model.named_parameters() if p.ndim > 1 and n.startswith(part))
    parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    before = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(FloatingPointError, match=rf"({name}|grad_norm).* not finite, though all losses are; .*model"):
        make_update(model)(batch, None)
    for other, value in model.named_parameters():
        assert torch.equal(value, before[other]), other
    assert all(p.grad is None for p in model.parameters())
