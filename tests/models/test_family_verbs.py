"""Every family says itself how it acts, which actor it learned, and what its loss terms weigh."""

from __future__ import annotations

import pytest
import torch
from family_work import FAMILIES, ROWS, acting_row, make_model, make_policy, make_rows
from recurrent_model import Recurrent, RecurrentConfig

from worldloom_rl.world_model import LatentPolicy

ACTORS = ("dreamerv3", "tdmpc2", "tokens")


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_weights_name_exactly_the_terms(family: str) -> None:
    model = make_model(family).train()
    assert set(model.compute_loss(make_rows(model, *ROWS[family]))[0]) == set(model.loss_weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_policy_acts_from_an_observation(family: str) -> None:
    model = make_model(family)
    policy = make_policy(model)
    with torch.no_grad():
        acted = policy(acting_row(model, policy))
    for key, spec in zip(model.action_keys, model.action_space.segments, strict=True):
        assert tuple(acted[key].shape) == (3, *spec.shape)


@pytest.mark.parametrize("family", ACTORS)
def test_the_actor_and_the_value_read_the_latent(family: str) -> None:
    model = make_model(family)
    actor, latent = model.make_actor(), model.initial_latent((3,))
    assert isinstance(actor, LatentPolicy)
    with torch.no_grad():
        assert tuple(actor.act(latent, model.noise).shape) == (3, model.action_space.width)
        assert tuple(model.terminal_value(latent, model.noise).shape) == (3, 1)


def test_a_family_that_says_nothing_tells_what_to_do() -> None:
    model = Recurrent(RecurrentConfig(), *Recurrent.default_specs())
    with pytest.raises(NotImplementedError, match=r"TensorDictSequential\(model.observe, .*, model.carry_action\)"):
        model.make_policy()
    with pytest.raises(NotImplementedError, match="give WorldModelLoss your own"):
        _ = model.loss_weights
