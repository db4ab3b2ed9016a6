"""Every family under torch.func: gradients, one sample's gradients, ensembles and forward derivatives of its verbs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from family_work import FAMILIES, make_model
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state
from torch.utils import _pytree as pytree
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded

from worldloom_rl import WorldModel
from worldloom_rl.noise import ModeNoise
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.world_model import Latent

BATCH, STEPS, NOISE = 2, 2, ModeNoise()
MIXED = Composite(steering=Bounded(-2.0, 1.0, shape=(2,)), gripper=Composite(mode=Categorical(3)))
OTHERS = {  # family, specs, numbers
    "mixed actions": ("tdmpc2", Composite(seen=Unbounded((5,))), MIXED, {}),
    "classes": ("dreamerv3", Composite(colour=Categorical(3), side=OneHot(4), height=Unbounded(())), MIXED, {}),
    "tasks": (
        "tdmpc2",
        Composite(seen=Unbounded((5,)), task=Categorical(2, shape=(), dtype=torch.int64)),
        Composite(action=Bounded(-1.0, 1.0, shape=(3,))),
        {"action_dims": (2, 3)},
    ),
}
Inputs = tuple[Latent | Tensor, ...]


def make_other(family: str, observation: Composite, action: Composite, numbers: dict[str, Any]) -> WorldModel:
    found, config = find_preset(f"{family}:tiny")
    model: WorldModel = found.model_class(dataclasses.replace(config, **numbers), observation, action).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2 / max(parameter.shape[-1:], default=1) ** 0.5)
    return model


def encode(model: WorldModel, observation: Latent) -> Tensor:
    observed = {key: observation[str(key)] for key in model.observation_keys}
    return model.latent_features(model.encode_latent(observed, NOISE))


def observe(model: WorldModel, latent: Latent, action: Tensor, observation: Latent, is_init: Tensor) -> Tensor:
    observed = {key: observation[str(key)] for key in model.observation_keys}
    return model.latent_features(model.filter_latent(latent, action, observed, is_init, NOISE))


def imagine(model: WorldModel, latent: Latent, actions: Tensor) -> Tensor:
    start = model.write_latent(TensorDict({}, batch_size=actions.shape[:-2]), latent)
    arrived = model.imagine(start, actions=actions, noise=NOISE)["next"]
    return torch.cat([arrived[model.key_map.reward], model.features(arrived)], -1)


def act(model: WorldModel, latent: Latent) -> Tensor:
    if not hasattr(model, "make_actor"):
        return model.latent_features(latent)
    start = model.write_latent(TensorDict({}, batch_size=next(iter(latent.values())).shape[:1]), latent)
    return model.imagine(start, model.make_actor(), horizon=STEPS, noise=NOISE)["next", model.key_map.reward]


WORKS: dict[str, Callable[..., Tensor]] = {"encode": encode, "observe": observe, "imagine": imagine, "act": act}


class Work(nn.Module):
    """What a model does, as a module to be called functionally."""

    def __init__(self, model: WorldModel, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs: Latent | Tensor) -> Tensor:
        return WORKS[self.name](self.model, *inputs)


@cache
def family_model(family: str) -> tuple[WorldModel, dict[str, Inputs]]:
    """A tiny model and inputs for each work."""
    model = make_other(*OTHERS[family]) if family in OTHERS else make_model(family)
    rows = model.observation_spec.rand(torch.Size([BATCH]))
    observation = {str(key): rows[key] for key in model.observation_keys}
    latent = {name: value.detach() for name, value in model.read_latent(model.encode(rows)).items()}
    actions = torch.rand(BATCH, STEPS, model.action_space.width) - 0.5
    is_init = torch.tensor([[True], [False]])
    inputs: dict[str, Inputs] = {
        "encode": (observation,),
        "observe": (latent, actions[:, 0], observation, is_init),
        "imagine": (latent, actions),
        "act": (latent,),
    }
    return model, inputs


def learned(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


every_work = pytest.mark.parametrize("name", WORKS)
every_family = pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])


@every_work
@every_family
def test_gradients_are_those_of_backward_also_one_by_one(family: str, name: str) -> None:
    model, inputs = family_model(family)
    work, given = Work(model, name), inputs[name]
    weights = learned(work)

    def loss(weights: dict[str, Tensor], *given: Latent | Tensor) -> Tensor:
        return functional_call(work, weights, given).square().sum()

    together = grad(loss)(weights, *given)
    one_by_one = pytree.tree_map(lambda x: x.unsqueeze(1), given)
    apart = torch.vmap(lambda *row: grad(loss)(weights, *row))(*one_by_one)
    summed = work(*given).square().sum()
    if not summed.requires_grad:  # of a frozen encoder
        assert not any(gradient.any() for gradient in together.values())
        return
    names = list(weights)
    backward = torch.autograd.grad(summed, [work.get_parameter(name) for name in names], allow_unused=True)
    for name, expected in zip(names, backward, strict=True):
        expected = torch.zeros_like(weights[name]) if expected is None else expected
        scale = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(together[name], expected, rtol=1e-3, atol=1e-4 * scale)
        torch.testing.assert_close(apart[name].sum(0), expected, rtol=1e-3, atol=1e-3 * scale)


@every_work
@every_family
def test_an_ensemble_computes_what_its_members_do_and_leaves_them_as_they_were(family: str, name: str) -> None:
    model, inputs = family_model(family)
    work, given = Work(model, name), inputs[name]
    parameters, buffers = stack_module_state([work, work])
    for value in parameters.values():  # the second member's weights are others
        value.data[1] *= 1.1
    before = dict(work.named_buffers())
    mapped = torch.vmap(lambda *state: functional_call(work, state, given))(parameters, buffers)
    for member, computed in enumerate(mapped):
        weights = {name: value[member] for name, value in parameters.items()}
        torch.testing.assert_close(computed, functional_call(work, weights, given), rtol=1e-3, atol=1e-4)
    assert all(value is before[name] for name, value in work.named_buffers())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, for its forward rules
@every_work
@every_family
def test_forward_derivatives_are_those_of_backward(family: str, name: str) -> None:
    model, inputs = family_model(family)
    work, given = Work(model, name), inputs[name]
    weights = learned(work)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(work, weights, given).square().sum()

    value, forward = jvp(loss, (weights,), (weights,))
    backward = sum((gradient * weights[name]).sum() for name, gradient in grad(loss)(weights).items())
    torch.testing.assert_close(forward, backward, rtol=1e-2, atol=1e-3 * float(value.abs()) + 1e-6)


@every_family
def test_no_module_stands_under_two_names(family: str) -> None:
    """`torch.func.functional_call` would leave it as it was called, with the weights of the call."""
    modules = [module for _, module in family_model(family)[0].named_modules(remove_duplicate=False)]
    assert len(modules) == len(set(modules))
