"""On CUDA: the CPU's numbers, and no wait for the device inside a plan."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from worldloom_rl import GeneratorNoise, WorldModelLoss
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyLoss, make_planner
from worldloom_rl.recipes.tdmpc2 import loss_weights, make_optimizers, update
from worldloom_rl.registry import find_preset

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


class HostNoise(GeneratorNoise):
    """The CPU's draws on whatever device asks."""

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return super().normal(name, shape, like.cpu()).to(like.device)

    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return super().exponential(name, shape, like.cpu()).to(like.device)

    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        return super().permutation(name, count, like.cpu()).to(like.device)

    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        return super().keep(name, shape, rate, like.cpu()).to(like.device)


def models() -> tuple[TDMPC2, TDMPC2]:
    torch.manual_seed(0)
    model = TDMPC2(find_preset("tdmpc2:tiny")[1], *TDMPC2.default_specs()).eval()
    return model, copy.deepcopy(model).to("cuda")


def test_an_update_gives_the_cpus_losses() -> None:
    observation, action = torch.randn(32, 4, 39), torch.rand(32, 4, 6)
    entries = {"observation": observation, "previous_action": action, "reward": torch.randn(32, 4, 1)}
    rows = TensorDict({**entries, "terminated": torch.zeros(32, 4, 1, dtype=torch.bool)}, batch_size=[32, 4])
    metrics = []
    for model in models():
        noise = HostNoise(torch.Generator().manual_seed(0))
        losses = WorldModelLoss(model, loss_weights(model.config)), PolicyLoss(model)
        batch = rows.to(model.discounts.device)
        metrics.append(update(model, *losses, make_optimizers(model), batch, noise))
    for name, value in metrics[0].items():
        torch.testing.assert_close(metrics[1][name].cpu(), value, rtol=1e-3, atol=1e-4)


def test_a_plan_does_not_wait_for_the_device() -> None:
    _, model = models()
    planner = make_planner(model)
    latent = model.initial_latent((4,))
    previous = torch.zeros(4, planner.horizon, 6, device="cuda")
    planner.plan(latent, previous, GeneratorNoise(), explore=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        planner.plan(latent, previous, GeneratorNoise(), explore=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
