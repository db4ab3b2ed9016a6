"""A saved model: a directory of config.json and model.safetensors. No pickle, no class paths."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.data import Composite

from worldloom_rl.atomic import new_directory, write_json
from worldloom_rl.config import Json, WorldModelConfig
from worldloom_rl.pretrained.foreign import check_finite
from worldloom_rl.pretrained.registry import Family, SavableModel, find_family
from worldloom_rl.pretrained.tensor_files import LARGEST_HEADER
from worldloom_rl.pretrained.tensors import TensorKind, check_tensors, in_one_precision
from worldloom_rl.specs.saved import spec_from_json, spec_to_json

LIBRARY = "worldloom-rl"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_LARGEST_CONFIG = 2**22  # bytes
_DIGEST = "sha256"  # in the weights' metadata: of all names, types, shapes and numbers
_LONGEST_REASON = 600  # characters
_REMEDY = "Load the two files of one save; if they were copied or edited, copy them again or save the model anew."
_FIELDS = {"model_type", "format_version", "library_version", "config", "key_map", "observation_spec", "action_spec"}


class Description(NamedTuple):
    """What a saved model is, without its weights."""

    family: Family
    config: WorldModelConfig
    observation_spec: Composite
    action_spec: Composite
    key_map: Mapping[str, NestedKey]


def save_world_model(model: SavableModel, directory: str | Path) -> None:
    """Write config.json and model.safetensors of a WorldModel; the directory appears whole or not at all.

    Raises FileExistsError if anything else stands there; an older model is replaced. Raises ValueError, with nothing
    written, for weights that are not finite, which would not be loaded again.
    """
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    check_finite(weights, f"Nothing was written to {directory}: the model")
    config = {
        "model_type": model.model_type,
        "format_version": FORMAT_VERSION,
        "library_version": version(LIBRARY),
        "config": model.config.to_json(),
        "key_map": model.key_map.to_json(),
        "observation_spec": spec_to_json(model.observation_spec),
        "action_spec": spec_to_json(model.action_spec),
    }
    with new_directory(Path(directory), replaces=holds_a_model) as folder:
        write_json(folder / CONFIG_FILE, config)
        save_file(weights, folder / WEIGHTS_FILE, metadata={_DIGEST: _digest(weights)})


def _digest(weights: Mapping[str, Tensor]) -> str:
    """A checksum of tensors, whatever order and place a file has them in."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def holds_a_model(folder: Path) -> bool:
    """Whether a directory is a saved model of ours with nothing beside it, of no run; such a one may be replaced."""
    of_a_run = (folder.parent / "learning.pt").exists()
    return {"model_type", "format_version", "library_version"} <= set(_described_by(folder)) and not of_a_run


def holds_an_encoder(folder: Path) -> bool:
    """As `holds_a_model`, of a V-JEPA 2 encoder as transformers saves it."""
    return _described_by(folder).get("model_type") == "vjepa2"


def _described_by(folder: Path) -> dict[str, Json]:
    """The contents of a directory's config.json; empty if there is none, or if the directory has anything else."""
    file = folder / CONFIG_FILE
    ours = re.compile(r"config\.json|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
    if not file.is_file() or not all(ours.fullmatch(entry.name) and entry.is_file() for entry in folder.iterdir()):
        return {}
    try:
        config = read_json(file)
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def load_world_model(directory: str | Path, encoder: nn.Module | None = None) -> SavableModel:
    """The WorldModel that `save_world_model` wrote, in the precision in which its family computes.

    Args:
        encoder: a module that the model was built with and that no file can describe, passed again; it gets the saved
            weights.
    Raises TypeError where an encoder is given to a family that takes none, FileNotFoundError, or ValueError naming the
    file and the first thing that is wrong in it: an unknown field, a number that makes no sense, a missing or extra
    tensor, a wrong shape or dtype. All of it is checked against the model on the meta device before memory is taken.
    """
    config_file, weights_file = (Path(directory) / name for name in (CONFIG_FILE, WEIGHTS_FILE))
    for file in (config_file, weights_file):
        _require_file(file)
    family, *arguments = read_description(config_file)
    with _describing(config_file):
        model_class = family.model_class
    parts = {} if encoder is None else {"encoder": encoder}
    if parts and "encoder" not in inspect.signature(model_class).parameters:
        raise TypeError(f"A {family.name} model has its own encoder; leave encoder= out.")
    with _describing(config_file), torch.device("meta"):
        expected = model_class(*arguments, **parts).state_dict()
    kept = _check_weights(weights_file, expected)
    weights = load_file(weights_file)
    if kept is not None and kept != _digest(weights):
        raise ValueError(
            f"{weights_file} is damaged: its numbers are not those that were saved; take an earlier checkpoint or "
            "another copy."
        )
    model = model_class(*arguments, **parts)
    model.load_state_dict(weights, strict=True)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(
                f"{weights_file}: tensor {name!r} holds values that are not finite. Training had diverged "
                "when it was saved, or the file is damaged; take an earlier checkpoint or another copy."
            )
    return model


def read_description(file: Path) -> Description:
    """What a saved model's config.json describes. Raises an OSError, or ValueError naming the file."""
    _require_file(file)
    config = read_config(file)
    with _describing(file):
        family = find_family(config["model_type"])
        return Description(
            family,
            family.config_class.from_json(config["config"]),
            spec_from_json(config["observation_spec"]),
            spec_from_json(config["action_spec"]),
            config["key_map"],
        )


@contextmanager
def _describing(file: Path) -> Iterator[None]:
    """Turns what goes wrong while a model is built from a file's description into a ValueError that names the file."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        # Families check their numbers; what one of another package lets through fails as its layers are built.
        raise ValueError(f"{file} describes no model: {_shortened(error)} {_REMEDY}") from error


def _shortened(error: Exception) -> str:
    """What it says; a file can make that as long as itself."""
    said = str(error)
    return said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]}…"


def _require_file(path: Path) -> None:
    """Raise an OSError unless a regular file stands there, or a link to one, as in the hub's cache."""
    if path.is_file():
        return
    if path.is_symlink():
        raise FileNotFoundError(
            f"{path} is a link to {os.readlink(path)!r}, where no file is; put the file itself in its place."
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a file; the file may be inside it.")
    if path.exists():
        raise OSError(f"{path} is no regular file; put the file that the model was saved to in its place.")
    raise FileNotFoundError(
        f"{path.parent} holds no {path.name}; a world model directory has {CONFIG_FILE} and {WEIGHTS_FILE}."
    )


def read_json(path: Path) -> Json:
    """A JSON file of bounded size. Raises ValueError with a remedy for anything else."""
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"{path} is larger than {_LARGEST_CONFIG} bytes; this is no world model configuration.")
    try:
        return json.loads(path.read_text(), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: a number may have too many digits
        raise ValueError(f"{path} is not JSON: {_shortened(error)}. {_REMEDY}") from error


def _each_once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """The object of the pairs. Raises ValueError if a name occurs twice: readers differ in which of them counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} occurs twice in one object")
    return found


def read_config(path: Path) -> dict[str, Json]:
    """A saved model's config.json, its own fields checked. Raises ValueError naming the file."""
    config = read_json(path)
    if not isinstance(config, dict) or set(config) != _FIELDS:
        fields = sorted(config) if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path} must have exactly the fields {sorted(_FIELDS)}, got {fields!s:.300}.")
    key_map = config["key_map"]
    if not isinstance(config["model_type"], str):
        raise ValueError(f"{path}: model_type must be the name of a family, got {config['model_type']!r:.100}.")
    if not isinstance(key_map, dict) or not all(
        isinstance(key, list) and key and all(isinstance(part, str) for part in key) for key in key_map.values()
    ):
        raise ValueError(f"{path}: key_map must give each name the list of its key's parts, got {key_map!r:.300}.")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {config['format_version']!r:.99}; this library reads version {FORMAT_VERSION}. "
            "Load it with the library version that its field 'library_version' names."
        )
    return config


def _check_weights(path: Path, expected: Mapping[str, Tensor]) -> str | None:
    """The checksum that a file of these weights tells, None if it tells none, as those of 0.6. Raises ValueError."""
    with open(path, "rb") as file:
        start = file.read(8)
    try:
        if int.from_bytes(start, "little") > LARGEST_HEADER:  # parsing it would take many times as much memory
            raise SafetensorError(f"its header would have more than {LARGEST_HEADER} bytes")
        with safe_open(path, framework="pt") as weights:
            found = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 (not a mapping)
            described = {name: TensorKind(tuple(piece.get_shape()), piece.get_dtype()) for name, piece in found.items()}
            kept: str | None = (weights.metadata() or {}).get(_DIGEST)
    except SafetensorError as error:
        pickled = start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05"))
        remedy = (
            "It begins as a pickle does, which can run code and is never read: ask for the model as safetensors, or "
            "turn an official checkpoint into one with worldloom import."
            if pickled
            else _REMEDY
        )
        raise ValueError(f"{path} is not a readable safetensors file: {_shortened(error)}. {remedy}") from error
    try:
        check_tensors(in_one_precision(described, expected), expected, str(path))
    except ValueError as error:
        raise ValueError(f"{_shortened(error)} {_REMEDY}") from error
    return kept
