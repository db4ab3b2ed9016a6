"""Every registered family keeps the contract, whatever it observes and however it acts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded

from worldloom_rl import WorldModel, list_world_models
from worldloom_rl.noise import Noise
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.testing import check_world_model
from worldloom_rl.world_model import Latent, Prediction


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
    "vision transformer": Variant(
        Composite(pixels=Unbounded((1, 16, 24))),
        Composite(action=box()),
        needs={"encoder": "vit"},
        changes={
            "jepa": {"patch_size": 8, "encoder_dim": 16, "encoder_layers": 1, "encoder_heads": 2, "encoder_mlp": 8}
        },
    ),
    "variance and covariance": Variant(
        Composite(observation=vector()),
        Composite(action=box()),
        needs={"regularizer": "vcreg", "cov_t_coef": 0.1, "straightening_coef": 0.1},
    ),
    "no regularizer": Variant(Composite(observation=vector()), Composite(action=box()), needs={"regularizer": "none"}),
    "predictor dropout": Variant(
        Composite(observation=vector()),
        Composite(action=box()),
        needs={"sigreg_knots": 5},
        changes={"jepa": {"dropout": 0.5}},
    ),
    "codes of gradients": Variant(Composite(pixels=pixels()), Composite(action=OneHot(4)), needs={"quantizer": "vq"}),
    "codes of running means": Variant(
        Composite(pixels=pixels()),
        Composite(steering=box(), gripper=Composite(mode=Categorical(3))),
        needs={"quantizer": "vq-ema"},
    ),
    "episodic": Variant(Composite(observation=vector()), Composite(action=box()), needs={"episodic": True}),
}


# Families that read only one kind of specs, and the variants that they are asked for.
PARTICULAR: dict[str, tuple[str, ...]] = {
    "vjepa2": (),
    "frozen_jepa": ("pixels",),
    "tokens": ("pixels", "codes of gradients", "codes of running means"),
}


def build(preset: str, name: str) -> WorldModel:
    family, config = find_preset(preset)
    if name == "default specs":
        return family.model_class(config, *family.model_class.default_specs())
    if name not in PARTICULAR.get(family.name, (name,)):
        pytest.skip(f"{family.name} does not read {name}")
    variant = VARIANTS[name]
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


@pytest.mark.parametrize("preset", list_world_models("*:tiny"))
def test_a_model_whose_prediction_does_not_change_with_the_action_breaks_the_contract(preset: str) -> None:
    torch.manual_seed(0)
    model = build(preset, "default specs")
    deaf = type("Deaf", (type(model),), {"predict_latent": ignore_the_action})
    with pytest.raises(AssertionError, match="predict ignores the action 'action'"):
        check_world_model(deaf(model.config, model.observation_spec, model.action_spec))


def ignore_the_action(self: WorldModel, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
    """The model's prediction for no action, with the actions that it remembers as they would be."""
    hears = type(self).__bases__[0]
    prediction = hears.predict_latent(self, latent, torch.zeros_like(action), noise)
    if "action_window" in prediction.latent:
        remembered = hears.predict_latent(self, latent, action, noise).latent["action_window"]
        prediction.latent["action_window"] = remembered
    return prediction
