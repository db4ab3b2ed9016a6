"""The contract of a world model as checks that run: `check_world_model` for the tests of any family, ours or yours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tensordict import TensorDictBase

from worldloom_rl.testing.imagination import check_environment, check_gradients, check_imagination
from worldloom_rl.testing.losses import check_loss
from worldloom_rl.testing.prediction import check_prediction
from worldloom_rl.testing.renaming import check_key_map
from worldloom_rl.testing.sequences import check_resets, check_sequences
from worldloom_rl.testing.subject import Data, rebuild
from worldloom_rl.testing.verbs import check_batch_shapes, check_keys, check_modes, check_values
from worldloom_rl.testing.weights import check_meta_device, check_registered_weights, check_saving
from worldloom_rl.world_model import WorldModel

_PERTURBATION = 0.05  # standard deviation added to the weights, so that heads that start at zero say something


def check_world_model(model: WorldModel, *, observation: TensorDictBase | None = None, seed: int = 0) -> None:
    """Nothing, if the model keeps the contract of `WorldModel`; the first broken rule is an AssertionError naming it.

    The data are drawn from the model's specs, and the checks run on copies built by `type(model)(config, specs…)` with
    slightly perturbed weights, on one CPU thread. The model, its noise and torch's global generator stay as they are.

        check_world_model(MyWorldModel(config, observation_spec, action_spec))

    Args:
        model: on the CPU, of a registered family.
        observation: rows [N, …] from which observations are drawn instead, where random ones make no sense.
        seed: of data, perturbation and noise.

    The rules, in the order of checking: verbs read and write their keys, in any batch shape, without touching their
    inputs; a sequence equals its steps and honours resets; a prediction depends on each action and agrees with
    `decode`; `imagine` equals the rollout of `ImaginationEnv`, whose specs hold; gradients flow; the loss is finite,
    reaches every weight outside `model.behavior` and names what is missing; keys can be renamed; modes are
    deterministic; weights are registered once, build on the meta device and survive saving.
    """
    with _single_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        data = Data(model, observation)
        subject = rebuild(model)
        with torch.no_grad():
            for parameter in subject.parameters():
                if parameter.requires_grad:
                    parameter.add_(_PERTURBATION * torch.randn_like(parameter))
        for check in (
            check_keys,
            check_values,
            check_batch_shapes,
            check_sequences,
            check_resets,
            check_prediction,
            check_imagination,
            check_environment,
            check_gradients,
            check_loss,
            check_key_map,
            check_modes,
            check_registered_weights,
            check_meta_device,
            check_saving,
        ):
            check(subject, data)


@contextmanager
def _single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
