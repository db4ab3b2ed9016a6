"""Observation and action specs as JSON, for the configuration of a saved model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
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

from worldloom_rl.config import Json, flat_json
from worldloom_rl.keys import as_tuple

# Limits of what a file describes; beyond them it is damaged or hostile.
_LARGEST_SPEC = 2**25  # bytes of one value of all leaves together; bounds take as much again
_MOST_LEAVES = 2**10
_MOST_DIMENSIONS = 16
_MOST_CLASSES = 2**20  # of one categorical
_MOST_CATEGORICALS = 2**12  # of one leaf
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
    )
}  # fmt: skip


def spec_to_json(spec: Composite) -> dict[str, Json]:
    """The leaves of a composite spec: key path, kind, shape, dtype and what its kind needs (low and high, n)."""
    leaves = []
    for key, leaf in spec.items(include_nested=True, leaves_only=True):
        entry: dict[str, Json] = {
            "key": list(as_tuple(key)),
            "kind": type(leaf).__name__,
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype).removeprefix("torch."),
        }
        # In TorchRL MultiOneHot is a OneHot, MultiCategorical and Binary are Categoricals: special kinds come first.
        if isinstance(leaf, Binary):
            entry["kind"] = "Binary"
        elif isinstance(leaf, MultiOneHot | MultiCategorical):
            counts = [box.n for box in leaf.space] if isinstance(leaf, MultiOneHot) else leaf.nvec.tolist()
            entry["kind"] = "MultiOneHot" if isinstance(leaf, MultiOneHot) else "MultiCategorical"
            entry["n"] = counts
        elif isinstance(leaf, OneHot | Categorical):
            entry["kind"] = "OneHot" if isinstance(leaf, OneHot) else "Categorical"
            entry["n"] = int(leaf.space.n)
        elif isinstance(leaf, Bounded):
            entry["kind"] = "Bounded"
            entry["low"], entry["high"] = _bound(leaf.space.low), _bound(leaf.space.high)
        elif isinstance(leaf, Unbounded):
            entry["kind"] = "Unbounded"
        else:
            raise ValueError(f"The spec of {key!r} is a {type(leaf).__name__}, which a checkpoint cannot describe.")
        leaves.append(entry)
    return {"leaves": leaves}


def _bound(bound: torch.Tensor) -> Json:
    values = bound.flatten()
    return values[0].item() if bool((values == values[0]).all()) else values.tolist()


def spec_from_json(data: Mapping[str, Json]) -> Composite:
    """The composite spec that `spec_to_json` described. Raises ValueError on anything else."""
    if not isinstance(data, Mapping) or set(data) != {"leaves"} or not isinstance(data["leaves"], list):
        raise ValueError(f"A spec is described by its list of 'leaves', got the fields {sorted(data)}.")
    if len(data["leaves"]) > _MOST_LEAVES:
        raise ValueError(f"The spec has {len(data['leaves'])} leaves; at most {_MOST_LEAVES} are taken.")
    spec = Composite()
    keys: set[tuple[str, ...]] = set()
    left = _LARGEST_SPEC
    for number, entry in enumerate(data["leaves"]):
        try:
            left -= _bytes(entry)
            if left < 0:
                raise ValueError(f"absurd shape {_shown(entry['shape'])}")
            key = _key_from_json(entry["key"])
            if key in keys:
                raise ValueError("its key stands there twice")
            keys.add(key)
            spec[key] = _leaf_from_json(entry)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            name = entry.get("key", number) if isinstance(entry, Mapping) else number
            raise ValueError(f"The description of the spec leaf {name!r} is incomplete or wrong: {error}.") from error
    return spec


def _bytes(entry: Mapping[str, Json]) -> int:
    """Bytes of one value of a described leaf. Raises ValueError for an unknown dtype or for what is no shape."""
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"unknown dtype {entry['dtype']!r}")
    shape = entry["shape"]
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise ValueError(f"the shape must be a list of whole numbers, got {_shown(shape)}")
    if len(shape) > _MOST_DIMENSIONS or any(size < 0 for size in shape):
        raise ValueError(f"absurd shape {_shown(shape)}")
    return math.prod(shape) * _DTYPES[entry["dtype"]].itemsize


def _key_from_json(parts: Json) -> tuple[str, ...]:
    if not isinstance(parts, list) or not 0 < len(parts) <= _MOST_DIMENSIONS:
        raise ValueError(f"a key is a list of its parts, got {_shown(parts)}")
    return as_tuple(tuple(parts))


def _shown(value: Json) -> str:
    """The value as text, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _leaf_from_json(entry: Mapping[str, Json]) -> TensorSpec:
    shape, dtype = torch.Size(entry["shape"]), _DTYPES[entry["dtype"]]
    counts = list(flat_json([entry.get("n", 1)]))
    if len(counts) > _MOST_CATEGORICALS or any(
        type(count) is not int or not 1 <= count <= _MOST_CLASSES for count in counts
    ):
        raise ValueError(f"absurd number of classes {_shown(entry['n'])}")
    kind = entry["kind"]
    if kind == "OneHot":
        return OneHot(entry["n"], shape=shape, dtype=dtype)
    if kind == "Categorical":
        return Categorical(entry["n"], shape=shape, dtype=dtype)
    if kind == "MultiOneHot":
        return MultiOneHot(entry["n"], shape=shape, dtype=dtype)
    if kind == "MultiCategorical":
        return MultiCategorical(entry["n"], shape=shape, dtype=dtype)
    if kind == "Binary":
        return Binary(shape=shape, dtype=dtype)
    if kind == "Unbounded":
        return Unbounded(shape=shape, dtype=dtype)
    if kind == "Bounded":
        low, high = (
            torch.tensor(entry[name], dtype=dtype).expand(shape)
            if not isinstance(entry[name], list)
            else torch.tensor(entry[name], dtype=dtype).reshape(shape)
            for name in ("low", "high")
        )
        if not bool((low <= high).all()):
            raise ValueError(f"low must not exceed high, got {_shown(entry['low'])} and {_shown(entry['high'])}")
        return Bounded(low=low, high=high, shape=shape, dtype=dtype)
    raise ValueError(f"unknown kind {kind!r}")
