"""No hot loop waits for the device: nothing on the way reads a number out of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from worldloom_rl.models import tdmpc2
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyLoss, PolicyPrior
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.objectives import ActorPolicy, WorldModelLoss
from worldloom_rl.planners import MPPIPlanner
from worldloom_rl.recipes import dreamerv3 as dreamerv3_recipe
from worldloom_rl.recipes import tdmpc2 as tdmpc2_recipe
from worldloom_rl.registry import find_preset
from worldloom_rl.world_model import WorldModel

Call = Callable[[], object]


class CountReads(TorchDispatchMode):
    """Counts where a tensor's value becomes a Python number or decides a shape: a GPU would be waited for there."""

    reading = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
    indexing = ("index", "index_put", "index_put_")

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masks = name in self.indexing and any(index is not None and index.dtype == torch.bool for index in args[1])
        if name in self.reading or masks:
            self.reads.append(name)
        return function(*args, **(kwargs or {}))


class OneHotOfGPUs(TorchFunctionMode):
    """F.one_hot as a GPU has it: only on the CPU it looks whether its classes exist."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.one_hot:
            index, classes = args
            return (index.unsqueeze(-1) == torch.arange(classes)).long()
        return function(*args, **(kwargs or {}))


def make_model(family: type[WorldModel]) -> Any:
    torch.manual_seed(0)
    _, config = find_preset(f"{family.model_type}:tiny")
    return family(config, *TDMPC2.default_specs()).eval()  # vectors for both


def rows(model: WorldModel, *shape: int) -> TensorDict:
    flag = torch.zeros(*shape, 1, dtype=torch.bool)
    entries = {"observation": torch.randn(*shape, 39), "previous_action": torch.rand(*shape, 6)}
    entries |= {"reward": torch.randn(*shape, 1), "terminated": flag, "truncated": flag, "is_init": flag}
    return model.write_latent(TensorDict(entries, batch_size=shape), model.initial_latent(shape))


def tdmpc2_update(device: str) -> Call:
    model = make_model(TDMPC2)
    batch = rows(model, 8, 4).to(device)
    model.to(device)
    losses = WorldModelLoss(model, tdmpc2_recipe.loss_weights(model.config)), PolicyLoss(model)
    optimizers = tdmpc2_recipe.make_optimizers(model)
    return lambda: tdmpc2_recipe.update(model, *losses, optimizers, batch)


def dreamerv3_update(device: str) -> Call:
    model = make_model(DreamerV3)
    batch = rows(model, 2, 9).to(device)
    model.to(device)
    losses, optimizer = dreamerv3_recipe.make_losses(model), dreamerv3_recipe.make_optimizer(model)
    return lambda: dreamerv3_recipe.update(losses, optimizer, batch)


def plan(family: type[WorldModel], device: str) -> Call:
    model = make_model(family).to(device)
    planner = MPPIPlanner(model, num_samples=16, num_elites=4, iterations=2)
    if family is TDMPC2:
        planner = tdmpc2.make_planner(model, num_samples=16, num_elites=4, num_policy_trajectories=2)
    latent, previous = model.initial_latent((2,)), torch.zeros(2, planner.horizon, 6, device=device)
    return lambda: planner.plan(latent, previous, GeneratorNoise(), explore=True)


def imagine(family: type[WorldModel], device: str) -> Call:
    model = make_model(family).to(device)
    policy = PolicyPrior(model) if family is TDMPC2 else ActorPolicy(model, model.behavior.actor)
    start = model.write_latent(TensorDict({}, batch_size=[4], device=device), model.initial_latent((4,)))
    return lambda: model.imagine(start, policy, horizon=3)


# One number a DreamerV3 update is read: whether all losses are finite.
WORK = {
    "TD-MPC2 update": (tdmpc2_update, 0),
    "DreamerV3 update": (dreamerv3_update, 1),
    "TD-MPC2 plan": (partial(plan, TDMPC2), 0),
    "DreamerV3 plan": (partial(plan, DreamerV3), 0),
    "TD-MPC2 imagination": (partial(imagine, TDMPC2), 0),
    "DreamerV3 imagination": (partial(imagine, DreamerV3), 0),
}


@pytest.mark.parametrize("name", WORK)
def test_hot_loops_read_no_number_out_of_a_tensor(name: str) -> None:
    make, expected = WORK[name]
    call = make("cpu")
    call()  # optimisers make their state
    with OneHotOfGPUs(), CountReads() as counter:
        call()
    assert len(counter.reads) == expected, counter.reads


def test_a_read_is_counted() -> None:
    with CountReads() as counter:
        bool(torch.ones(1).all())
        torch.ones(2)[torch.ones(2).bool()]
    assert counter.reads == ["_local_scalar_dense", "index"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", [name for name, (_, reads) in WORK.items() if not reads])
def test_a_gpu_is_not_waited_for(name: str) -> None:
    call = WORK[name][0]("cuda")
    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
