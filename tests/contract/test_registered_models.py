"""Every registered family keeps the contract, whatever it observes and however it acts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded

from worldloom_rl import WorldModel, list_world_models
from worldloom_rl.registry import find_preset
from worldloom_rl.testing import check_world_model


@dataclass(frozen=True)
class Variant:
    """Specs to build a model for; a family whose configuration lacks one of the `needs` is not asked."""

    observation: Composite
    action: Composite
    needs: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)  # by family: sizes that fit the specs


def vector() -> Unbounded:
    return Unbounded((5,))


def pixels() -> Unbounded:
    return Unbounded((3, 64, 64), dtype=torch.uint8)


def box() -> Bounded:
    return Bounded(-2.0, 1.0, shape=(3,), dtype=torch.float32)


VARIANTS = {
    "pixels": Variant(Composite(pixels=pixels()), Composite(action=box())),
    "vector and pixels": Variant(
        Composite(observation=vector(), pixels=pixels()),
        Composite(action=box()),
        changes={"tdmpc2": {"latent_dim": 128}},
    ),
    "several nested vectors": Variant(
        Composite(joint=Composite(position=vector(), velocity=vector()), touch=Unbounded((1,))), Composite(action=box())
    ),
    "one-hot action": Variant(Composite(observation=vector()), Composite(action=OneHot(4))),
    "categorical action": Variant(Composite(observation=vector()), Composite(action=Categorical(4))),
    "composite action": Variant(
        Composite(observation=vector()), Composite(steering=box(), gripper=Composite(mode=Categorical(3)))
    ),
    "several tasks": Variant(
        Composite(observation=vector(), task=Categorical(2, shape=(), dtype=torch.int64)),
        Composite(action=box()),
        needs={"action_dims": (2, 3)},
    ),
    "categories and tables": Variant(
        Composite(
            colour=Categorical(3),
            side=OneHot(4),
            table=Unbounded((2, 3)),
            lamps=Categorical(2, shape=(5,)),
            height=Unbounded(()),
        ),
        Composite(action=box()),
        needs={"unimix": 0.01},
    ),
    "gaussian latent": Variant(Composite(observation=vector()), Composite(action=box()), needs={"latent": "gaussian"}),
    "no replay context": Variant(Composite(observation=vector()), Composite(action=box()), needs={"replay_context": 0}),
    "hard continue targets": Variant(
        Composite(observation=vector()), Composite(action=box()), needs={"discount_in_continue": False}
    ),
    "codes of gradients": Variant(Composite(pixels=pixels()), Composite(action=OneHot(4)), needs={"quantizer": "vq"}),
    "codes of running means": Variant(
        Composite(pixels=pixels()),
        Composite(steering=box(), gripper=Composite(mode=Categorical(3))),
        needs={"quantizer": "vq-ema"},
    ),
    "episodic": Variant(Composite(observation=vector()), Composite(action=box()), needs={"episodic": True}),
}


ONLY_PIXELS = ("tokens",)  # families that read one image and nothing else


def build(preset: str, name: str) -> WorldModel:
    family, config = find_preset(preset)
    if name == "default specs":
        return family.model_class(config, *family.model_class.default_specs())
    variant = VARIANTS[name]
    if family.name in ONLY_PIXELS and set(variant.observation.keys()) != {"pixels"}:
        pytest.skip(f"{family.name} reads one image only")
    known = {entry.name for entry in dataclasses.fields(config)}
    if not set(variant.needs) <= known:
        pytest.skip(f"{family.name} has no {sorted(set(variant.needs) - known)}")
    config = dataclasses.replace(config, **variant.needs, **variant.changes.get(family.name, {}))
    return family.model_class(config, variant.observation, variant.action)


@pytest.mark.parametrize("name", ["default specs", *VARIANTS])
@pytest.mark.parametrize("preset", list_world_models("*:tiny"))
def test_a_registered_model_keeps_the_contract(preset: str, name: str) -> None:
    torch.manual_seed(0)
    check_world_model(build(preset, name))
