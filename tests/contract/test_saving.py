"""Any configuration of any registered family, whatever it observes and however it acts, survives saving and loading."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    TensorSpec,
    Unbounded,
)

from worldloom_rl import AutoWorldModel, GeneratorNoise, WorldModel, list_world_models
from worldloom_rl.pretrained.registry import find_preset

Draw = Callable[[st.SearchStrategy[Any]], Any]

KEYS = ("a", "b", ("inner", "c"), ("inner", "deep", "d"))
sizes = st.integers(1, 4)
numbers = st.floats(1e-3, 0.9)


# ---------------------------------------------------------------------- specs


def reals(draw: Draw) -> TensorSpec:
    return Unbounded((draw(sizes),))


def bounded_reals(draw: Draw) -> TensorSpec:
    low = torch.tensor(draw(st.lists(st.floats(-3, 0, width=32), min_size=1, max_size=4)))
    return Bounded(low, low + draw(st.floats(0.5, 2, width=32)), dtype=torch.float32)


IMAGES: dict[str, Callable[[Draw], TensorSpec]] = {
    "image": lambda draw: Bounded(0, 255, (draw(st.sampled_from([1, 3])), 64, 64), dtype=torch.uint8)
}
VECTORS: dict[str, Callable[[Draw], TensorSpec]] = {"reals": reals, "bounded reals": bounded_reals}
OTHERS: dict[str, Callable[[Draw], TensorSpec]] = {
    "a real": lambda draw: Unbounded(()),
    "table": lambda draw: Unbounded((draw(sizes), draw(sizes))),
    "one-hot": lambda draw: OneHot(draw(sizes) + 1),
    "class": lambda draw: Categorical(draw(sizes) + 1),
    "classes": lambda draw: Categorical(draw(sizes) + 1, shape=(draw(sizes),), dtype=torch.int32),
    "choices": lambda draw: MultiCategorical([2, draw(sizes) + 1]),
    "bits": lambda draw: Binary(draw(sizes)),
    "flag": lambda draw: Unbounded((draw(sizes),), dtype=torch.bool),
    "counts": lambda draw: Bounded(0, draw(sizes), (draw(sizes),), dtype=torch.int64),
}
SMALL_IMAGES: dict[str, Callable[[Draw], TensorSpec]] = {
    "image": lambda draw: Unbounded((draw(st.sampled_from([1, 3])), 8 * draw(sizes), 8 * draw(sizes)))
}
OBSERVATIONS = {
    "dreamerv3": VECTORS | IMAGES | OTHERS,
    "tdmpc2": VECTORS | IMAGES,
    "jepa": VECTORS | SMALL_IMAGES,
}
ACTIONS: dict[str, Callable[[Draw], TensorSpec]] = {
    "box": bounded_reals,
    "one-hot": lambda draw: OneHot(draw(sizes) + 1),
    "class": lambda draw: Categorical(draw(sizes) + 1),
    "classes": lambda draw: Categorical(2, shape=(draw(sizes),)),
    "choices one-hot": lambda draw: MultiOneHot([2, draw(sizes) + 1]),
    "choices": lambda draw: MultiCategorical([2, draw(sizes) + 1]),
}


def composite(draw: Draw, kinds: list[str], known: dict[str, Callable[[Draw], TensorSpec]]) -> Composite:
    spec = Composite()
    for key, kind in zip(KEYS, kinds, strict=False):
        spec[key] = known[kind](draw)
    return spec


# ---------------------------------------------------------------------- sizes, by family


def dreamerv3(draw: Draw, observed: list[str]) -> dict[str, Any]:
    blocks = draw(st.sampled_from([1, 2]))
    images = "image" in observed  # whose decoder has blocks of its own
    layers = ("encoder", "decoder", "prior", "posterior", "reward", "continue", "actor", "critic")
    return {
        "latent": draw(st.sampled_from(["categorical", "gaussian"])),
        "blocks": blocks,
        "deterministic": (8 if images else blocks) * draw(sizes),
        "classes": draw(sizes) + 1,
        **{name: draw(sizes) for name in ("hidden", "groups", "units")},
        "depth": 2 if images else 1,
        **{f"{part}_layers": draw(st.integers(1, 2)) for part in layers},
        "num_bins": draw(st.integers(2, 9)),
        "min_std": draw(st.floats(0.1, 0.5)),
        "discount_in_continue": draw(st.booleans()),
        "replay_context": draw(st.integers(0, 1)),
        **{name: draw(numbers) for name in ("unimix", "learning_rate", "slow_rate", "return_rate", "lambda_")},
    }


def tdmpc2(draw: Draw, observed: list[str]) -> dict[str, Any]:
    branches = observed.count("image") + any(kind != "image" for kind in observed)
    channels = draw(st.integers(1, 2))
    group = draw(st.sampled_from([1, 2, 4, 8]))
    width = 16 * channels if "image" in observed else group * draw(sizes)
    samples = draw(st.integers(2, 9))
    low = draw(st.floats(-5, 0))
    return {
        "simnorm_dim": group,
        "latent_dim": branches * width,
        "num_channels": channels,
        **{name: draw(sizes) for name in ("encoder_layers", "encoder_dim", "mlp_dim", "task_dim", "horizon")},
        "num_q": draw(st.integers(2, 4)),
        "num_bins": draw(st.integers(2, 9)),
        "vmin": low,
        "vmax": low + draw(st.floats(0.5, 10)),
        "fast_mish": draw(st.booleans()),
        "episodic": draw(st.booleans()),
        "num_samples": samples,
        "num_elites": draw(st.integers(1, samples)),
        "num_policy_trajectories": draw(st.integers(0, samples)),
        **{name: draw(numbers) for name in ("dropout", "discount", "tau", "rho", "learning_rate", "temperature")},
    }


def jepa(draw: Draw, observed: list[str]) -> dict[str, Any]:
    horizon, samples = draw(sizes), draw(st.integers(2, 9))
    heads = draw(st.integers(1, 2))
    return {
        "encoder": draw(st.sampled_from(["cnn", "vit"])),
        "patch_size": draw(st.sampled_from([4, 8])),
        "encoder_dim": heads * draw(sizes),
        "encoder_heads": heads,
        "regularizer": draw(st.sampled_from(["none", "sigreg", "vcreg"])),
        "latent_dim": 1 + draw(sizes),
        "horizon": horizon,
        "execute": draw(st.integers(1, horizon)),
        "num_samples": samples,
        "num_elites": draw(st.integers(1, samples)),
        **{
            name: draw(sizes)
            for name in (
                "encoder_layers", "encoder_mlp", "cnn_channels", "vector_dim", "projector_dim", "history",
                "action_filters", "predictor_dim", "predictor_layers", "predictor_heads", "predictor_head_dim",
                "predictor_mlp",
            )
        },
        **{name: draw(numbers) for name in ("dropout", "sigreg_coef", "discount", "learning_rate")},
    }  # fmt: skip


SIZES = {"dreamerv3": dreamerv3, "tdmpc2": tdmpc2, "jepa": jepa}


def vjepa2(draw: Draw) -> tuple[dict[str, Any], Composite, Composite]:
    """V-JEPA 2-AC's numbers, observation and action."""
    heads, predictor_heads, samples = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(2, 9))
    history = draw(sizes)
    numbered = {
        "image_size": 8,
        "patch_size": draw(st.sampled_from([4, 8])),
        "encoder_heads": heads,
        "encoder_dim": heads * draw(st.integers(6, 9)),
        "predictor_heads": predictor_heads,
        "predictor_dim": predictor_heads * draw(st.integers(6, 9)),
        "history": history,
        "context": draw(st.integers(1, history)),
        "num_samples": samples,
        "num_elites": draw(st.integers(2, samples)),
        "use_extrinsics": draw(st.booleans()),
        **{
            name: draw(sizes)
            for name in (
                "tubelet_size", "encoder_depth", "encoder_mlp_dim", "predictor_depth", "predictor_mlp_dim",
                "rollout_steps", "horizon", "iterations",
            )
        },
        **{name: draw(numbers) for name in ("discount", "momentum_mean", "momentum_std_gripper", "max_translation")},
    }  # fmt: skip
    side = draw(st.sampled_from([8, 12]))
    observation = Composite({"eye": Unbounded((3, side, side), dtype=torch.uint8), ("arm", "pose"): Unbounded((7,))})
    if numbered["use_extrinsics"]:
        observation["arm", "extrinsics"] = Unbounded((6,))
    low = torch.tensor(draw(st.lists(st.floats(-3, -1, width=32), min_size=7, max_size=7)))
    return numbered, observation, Composite({("arm", "move"): Bounded(low, -2 * low, dtype=torch.float32)})


def frozen_jepa(draw: Draw) -> tuple[dict[str, Any], Composite, Composite]:
    """The numbers, observation and action of a JEPA over a frozen encoder of transformers."""
    heads = draw(st.integers(1, 2))
    width, patch, samples, horizon = (
        heads * draw(sizes),
        draw(st.sampled_from([4, 8])),
        draw(st.integers(1, 9)),
        draw(sizes),
    )
    encoder = {
        "model_type": "vit", "image_size": 8, "patch_size": patch, "hidden_size": width, "num_attention_heads": heads,
        "num_hidden_layers": draw(st.integers(1, 2)), "intermediate_size": draw(sizes),
    }  # fmt: skip
    numbered = {
        "transformers": json.dumps(encoder),
        "image_size": 8,
        "num_tokens": (8 // patch) ** 2,
        "token_dim": width,
        "pixel_mean": (draw(numbers),),
        "horizon": horizon,
        "execute": draw(st.integers(1, horizon)),
        "num_samples": samples,
        "num_elites": draw(st.integers(1, samples)),
        **{
            name: draw(sizes)
            for name in ("history", "vector_dim", "action_dim", "layers", "heads", "head_dim", "mlp_dim", "iterations")
        },
        **{name: draw(numbers) for name in ("dropout", "discount", "init_std")},
    }
    observation = composite(draw, ["reals"] * draw(st.integers(0, 2)), VECTORS)
    observation["eye"] = Unbounded((3, 4 * draw(sizes), 4 * draw(sizes)), dtype=torch.uint8)
    return numbered, observation, composite(draw, [draw(st.sampled_from(sorted(ACTIONS)))], ACTIONS)


def tokens(draw: Draw) -> tuple[dict[str, Any], Composite, Composite]:
    """A token world model's numbers, observation and action."""
    heads, context = draw(st.integers(1, 2)), draw(sizes)
    layers = ("layers", "reward_layers", "continue_layers", "actor_layers", "critic_layers")
    numbered = {
        "quantizer": draw(st.sampled_from(["vq", "vq-ema", "fsq"])),
        "vocabulary": draw(sizes) + 1,
        "levels": tuple(draw(st.lists(st.integers(3, 5), min_size=1, max_size=3))),
        "halvings": draw(st.integers(1, 3)),
        "attention_heads": heads,
        "width": heads * draw(sizes),
        "context": context,
        "feature_frames": draw(st.integers(1, context)),
        **{name: draw(sizes) for name in ("token_width", "depth", "units")},
        **{name: draw(st.integers(1, 2)) for name in layers},
        "num_bins": draw(st.integers(2, 9)),
        "min_std": draw(st.floats(0.1, 0.5)),
        **{name: draw(numbers) for name in ("decay", "discount", "learning_rate", "slow_rate", "return_rate")},
    }
    shape = (draw(st.sampled_from([1, 3])), 8 * draw(st.integers(1, 2)), 8 * draw(st.integers(1, 2)))
    action = composite(draw, draw(st.lists(st.sampled_from(sorted(ACTIONS)), min_size=1, max_size=2)), ACTIONS)
    return numbered, Composite(eye=Unbounded(shape, dtype=torch.uint8)), action


# Families that read one kind of specs.
PARTICULAR = {"vjepa2": vjepa2, "frozen_jepa": frozen_jepa, "tokens": tokens}


def several_tasks(draw: Draw) -> tuple[dict[str, Any], Composite, Composite]:
    """TD-MPC2's numbers, observation and action for several tasks."""
    action = composite(draw, ["box"] * draw(st.integers(1, 2)), ACTIONS)
    width = sum(leaf.shape.numel() for leaf in action.values(True, True))
    masks = tuple(draw(st.lists(st.integers(1, width), min_size=1, max_size=3)))
    observation = composite(draw, ["reals"], VECTORS)
    observation["task"] = Categorical(len(masks), shape=(), dtype=torch.int64)
    discounts = tuple(draw(st.lists(numbers, min_size=len(masks), max_size=len(masks))))
    numbered = {"action_dims": masks, "episodic": False, "discount": draw(st.sampled_from([discounts, discounts[0]]))}
    return {**tdmpc2(draw, ["reals"]), **numbered}, observation, action


@st.composite
def models(draw: Draw, preset: str) -> WorldModel:
    """A small model with weights that all say something."""
    family, config = find_preset(preset)
    if family.name in PARTICULAR:
        changes, observation, action = PARTICULAR[family.name](draw)
    elif family.name == "tdmpc2" and draw(st.integers(0, 4)) == 0:
        changes, observation, action = several_tasks(draw)
    else:
        kinds = OBSERVATIONS[family.name]
        observed = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=3))
        changes = SIZES[family.name](draw, observed)
        observation = composite(draw, observed, kinds)
        action = composite(draw, draw(st.lists(st.sampled_from(sorted(ACTIONS)), min_size=1, max_size=2)), ACTIONS)
    names = draw(st.sampled_from([{}, {"latent": ("my", "state"), "reward": "gain", "is_init": ("flags", "first")}]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # The base class's constructor is wider than a family's.
    model: WorldModel = family.model_class(type(config)(**{**vars(config), **changes}), observation, action, names)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


# ---------------------------------------------------------------------- the claim


def outputs(model: WorldModel, rows: TensorDict, actions: TensorDict) -> dict[str, Tensor]:
    """What the verbs and the behaviour's heads give, every draw from one seed."""
    model.noise = GeneratorNoise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = model.encode(rows.copy()).select(*model.latent_keys)
        imagined = model.imagine(encoded, actions=actions)
        features = model.features(encoded)
        found = {"encode": encoded, "decode": model.decode(encoded.copy()), "imagine": imagined}
        tensors = {f"{name} {key}": value for name, td in found.items() for key, value in td.items(True, True)}
        return {**tensors, **HEADS[model.model_type](model, features, encoded)}


def actor_critic_heads(model: Any, features: Tensor, encoded: TensorDict) -> dict[str, Tensor]:
    behavior = model.behavior
    distribution = behavior.actor(features)
    values = {"critic": behavior.critic.mean(behavior.critic(features)), "slow critic": behavior.slow_critic(features)}
    return {**values, "actor": distribution.location, "deviation": distribution.std}


def tdmpc2_heads(model: Any, features: Tensor, encoded: TensorDict) -> dict[str, Tensor]:
    mask = model.action_mask(model.read_latent(encoded))
    behavior = model.behavior
    return {
        "policy": behavior.sample(features, mask, model.noise).action,
        "value": behavior.value(features, mask, model.noise),
        "target": behavior.target_value(features, mask, model.noise),
    }


def jepa_heads(model: Any, features: Tensor, encoded: TensorDict) -> dict[str, Tensor]:
    latent = model.read_latent(encoded)
    return {"distance": model.distance(latent["tokens"], latent["goal"]), "features": features}


HEADS = {"dreamerv3": actor_critic_heads, "tokens": actor_critic_heads, "tdmpc2": tdmpc2_heads, "jepa": jepa_heads}
HEADS |= dict.fromkeys(("vjepa2", "frozen_jepa"), jepa_heads)


def test_every_registered_family_is_tried() -> None:
    known = {preset.partition(":")[0] for preset in list_world_models("*:tiny")}
    assert known == {*SIZES, *PARTICULAR} == {*OBSERVATIONS, *PARTICULAR} == set(HEADS)


@pytest.mark.parametrize("family", [*SIZES, *PARTICULAR])
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_saved_model_comes_back_with_equal_outputs(family: str, data: st.DataObject) -> None:
    model = data.draw(models(f"{family}:tiny"))
    torch.manual_seed(0)
    rows, actions = model.observation_spec.rand(torch.Size([3])), model.action_spec.rand(torch.Size([3, 2]))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "model")
        loaded = AutoWorldModel.from_pretrained(Path(folder) / "model").eval()
    assert loaded.config == model.config
    assert loaded.key_map == model.key_map
    assert (loaded.observation_spec, loaded.action_spec) == (model.observation_spec, model.action_spec)
    expected, found = outputs(model, rows, actions), outputs(loaded, rows, actions)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert math.isfinite(value.double().sum()), name
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
