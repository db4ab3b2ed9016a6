"""Configuration and specs from the sizes of an official DreamerV3 checkpoint's arrays."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded

from worldloom_rl.config import Json
from worldloom_rl.models.dreamerv3.config import DreamerV3Config
from worldloom_rl.models.dreamerv3.official.settings import ImportSettings


class Sizes:
    """What the arrays say of sizes. A size is the one on which most arrays agree, so that a wrong one stands out."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays

    def axis(self, name: str, axis: int = 0) -> list[int]:
        """The size of that axis, as a list of one; empty if there is no such array or axis."""
        array = self.arrays.get(name)
        return [array.shape[axis]] if array is not None and array.ndim > axis else []

    def most(self, size: str, votes: Iterable[int]) -> int:
        """The commonest vote."""
        counted = Counter(votes).most_common(1)
        if not counted:
            raise ValueError(f"The checkpoint has none of the arrays that tell its {size}; is it one of DreamerV3?")
        return counted[0][0]

    def layers(self, prefix: str, default: int) -> int:
        """How many layers prefix0, prefix1, … there are; the default if none."""
        found = [re.match(rf"{re.escape(prefix)}(\d+)/kernel$", name) for name in self.arrays]
        return max((int(match[1]) + 1 for match in found if match), default=default)

    def heads(self, prefix: str) -> dict[str, set[str]]:
        """The kinds of output under prefix/<key>/<kind>, by key."""
        heads: dict[str, set[str]] = {}
        for name in self.arrays:
            match = re.fullmatch(rf"{prefix}/(.+)/(pred|logits|mean|stddev)/(?:kernel|bias)", name)
            if match:
                heads.setdefault(match[1], set()).add(match[2])
        return dict(sorted(heads.items()))


def describe(
    sizes: Sizes, settings: ImportSettings, numbers: Mapping[str, Json]
) -> tuple[DreamerV3Config, Composite, Composite]:
    """Configuration and specs."""
    config = DreamerV3Config(**{**numbers, **_network_sizes(sizes, numbers["groups"])})
    shapes = dict(_shape(text) for text in settings.shapes)
    observations = _observations(sizes, shapes, settings.image_key, config.depth)
    actions = _actions(sizes, shapes)
    if shapes:
        raise ValueError(f"shapes names {sorted(shapes)}, but the checkpoint has {sorted([*observations, *actions])}.")
    return config, Composite(dict(sorted(observations.items()))), Composite(actions)


def _network_sizes(sizes: Sizes, groups: Json) -> dict[str, Json]:
    axis, most, layers = sizes.axis, sizes.most, sizes.layers
    default = DreamerV3Config()
    deterministic = [*axis("dyn/dynhid0/bias"), *axis("dyn/dynhid0norm/scale"), *axis("dyn/dynin0/kernel")]
    hidden = [f"dyn/{layer}/bias" for layer in ("dynin0", "dynin1", "dynin2", "obs0", "prior0")]
    units = [f"{head}/mlp/linear0/bias" for head in ("rew", "con", "val", "slowval", "pol")]
    parameters = most("stochastic state", axis("dyn/obslogit/bias") + axis("dyn/priorlogit/bias"))
    if not isinstance(groups, int) or groups < 1 or parameters % groups:
        raise ValueError(
            f"The stochastic state has {parameters} numbers, which {groups!r} groups do not divide; say with groups "
            "how many categoricals there are."
        )
    return {
        "deterministic": most("deterministic state", deterministic),
        "hidden": most("hidden width", [size for name in hidden for size in axis(name)]),
        "classes": parameters // groups,
        "blocks": most("blocks", axis("dyn/dyngru/kernel") + axis("dyn/dynhid0/kernel")),
        "units": most("units", [size for name in units for size in axis(name)]),
        "depth": most("depth", [n // 2 for n in axis("enc/cnn0/bias") + axis("dec/conv0/bias")] or [default.depth]),
        "num_bins": most("bins", [n for head in ("rew", "val", "slowval") for n in axis(f"{head}/head/logits/bias")]),
        "encoder_layers": layers("enc/mlp", default.encoder_layers),
        "decoder_layers": layers("dec/mlp/linear", default.decoder_layers),
        "prior_layers": layers("dyn/prior", 0),
        "posterior_layers": layers("dyn/obs", 0),
        "reward_layers": layers("rew/mlp/linear", 0),
        "continue_layers": layers("con/mlp/linear", 0),
        "actor_layers": layers("pol/mlp/linear", 0),
        "critic_layers": layers("val/mlp/linear", 0),
    }


def _observations(
    sizes: Sizes, shapes: dict[str, tuple[int, ...]], image_key: str, depth: int
) -> dict[str, TensorSpec]:
    """The observations that are decoded; takes theirs from the given shapes."""
    axis, most = sizes.axis, sizes.most
    observations: dict[str, TensorSpec] = {}
    for key, kinds in sizes.heads("dec/vec").items():
        kind = "logits" if "logits" in kinds else "pred"
        width = most(f"observation {key!r}", axis(f"dec/vec/{key}/{kind}/bias"))
        observations[key] = _leaf(key, width, shapes.pop(key, None), categories=kind == "logits")
    images = {key: shapes.pop(key) for key in list(shapes) if len(shapes[key]) == 3}
    channels = axis("enc/cnn0/kernel", 2)
    if channels and not images:
        coarse = most("image size", axis("dec/sp2/bias") + axis("dec/sp0/bias")) // (4 * depth)
        side = 16 * math.isqrt(coarse)
        if side**2 != 256 * coarse:
            raise ValueError(f"The images are not square; give their shape, such as shapes={image_key}=3x64x96.")
        images = {image_key: (channels[0], side, side)}
    observations |= {key: Bounded(0, 255, shape=shape, dtype=torch.uint8) for key, shape in images.items()}
    return observations


def _actions(sizes: Sizes, shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorSpec]:
    """The actions that the policy gives; takes theirs from the given shapes."""
    axis, most = sizes.axis, sizes.most
    actions: dict[str, TensorSpec] = {}
    for key, kinds in sizes.heads("pol/head").items():
        kind = "logits" if "logits" in kinds else "mean"
        width = most(f"action {key!r}", axis(f"pol/head/{key}/{kind}/bias"))
        shape = shapes.pop(key, None)
        if kind == "logits":
            actions[key] = _leaf(key, width, shape, categories=True)
        else:
            actions[key] = Bounded(-1.0, 1.0, shape=(width,), dtype=torch.float32)
    return actions


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    key, _, sides = text.partition("=")
    if not key or not re.fullmatch(r"\d+(x\d+)*", sides):
        raise ValueError(f'A shape is written "key=2x3", got {text!r}.')
    return key, tuple(int(side) for side in sides.split("x"))


def _leaf(key: str, width: int, shape: tuple[int, ...] | None, *, categories: bool) -> TensorSpec:
    """The spec of a leaf for which the network gives that many numbers."""
    count = math.prod(shape or ())
    if shape is not None and (width % count if categories else width != count):
        raise ValueError(f"{key!r} has {width} outputs, which do not fit the shape {shape}.")
    if not categories:
        return Unbounded(shape or (width,))
    classes = width // count
    if shape is None:
        return Categorical(classes, shape=(), dtype=torch.int64)
    if len(shape) == 1:
        return MultiCategorical([classes] * count, dtype=torch.int64)
    return Categorical(classes, shape=shape, dtype=torch.int64)
