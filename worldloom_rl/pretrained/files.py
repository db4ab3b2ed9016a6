"""Checkpoints as a directory of config.json and model.safetensors, and models by name. No pickle, no class paths.

A name is a preset, a directory, or a repository of the hub, whose two files are read by the same loader.
"""

from __future__ import annotations

import inspect
import json
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint
from torchrl.data import Composite
from torchrl.envs import EnvBase

from worldloom_rl.config import Json, did_you_mean
from worldloom_rl.pretrained import hub
from worldloom_rl.pretrained.registry import find_family, find_preset, list_world_models
from worldloom_rl.specs.environment import specs_of as specs_of
from worldloom_rl.specs.saved import spec_from_json, spec_to_json

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"

_LARGEST_CONFIG = _LARGEST_HEADER = 2**22  # bytes
_REMEDY = "Load the two files of one save; if they were copied or edited, copy them again or save the model anew."
_FIELDS = {"model_type", "format_version", "library_version", "config", "key_map", "observation_spec", "action_spec"}


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target` that takes its place, by renaming, when the block ends well.

    Nothing is left behind if the block raises. An existing `target` is replaced as a whole.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        temporary.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            os.replace(target, old / target.name)
            try:
                os.replace(temporary, target)
            except BaseException:
                os.replace(old / target.name, target)
                raise
            finally:
                shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def save_world_model(model: Any, directory: str | Path) -> None:
    """Write config.json and model.safetensors of a WorldModel; the directory appears whole or not at all."""
    config = {
        "model_type": model.model_type,
        "format_version": FORMAT_VERSION,
        "library_version": version("worldloom-rl"),
        "config": model.config.to_json(),
        "key_map": model.key_map.to_json(),
        "observation_spec": spec_to_json(model.observation_spec),
        "action_spec": spec_to_json(model.action_spec),
    }
    with new_directory(Path(directory)) as folder:
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS_FILE)


class _NoEncoderError(TypeError):
    """An encoder was given to a family that takes none."""


def load_world_model(directory: str | Path, encoder: nn.Module | None = None) -> Any:
    """The WorldModel that `save_world_model` wrote.

    Args:
        encoder: a module that the model was built with and that no file can describe, passed again; it gets the saved
            weights.
    Raises TypeError where an encoder is given to a family that takes none, FileNotFoundError, or ValueError naming the
    file and the first thing that is wrong in it: an unknown field, a number that makes no sense, a missing or extra
    tensor, a wrong shape or dtype. All of it is checked against the model on the meta device before memory is taken.
    """
    folder = Path(directory)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        _require_file(folder / name)
    config = _read_config(folder / CONFIG_FILE)
    parts = {} if encoder is None else {"encoder": encoder}
    try:
        family = find_family(config["model_type"])
        if parts and "encoder" not in inspect.signature(family.model_class).parameters:
            raise _NoEncoderError(f"A {config['model_type']} model has its own encoder; leave encoder= out.")
        arguments = (
            family.config_class.from_json(config["config"]),
            spec_from_json(config["observation_spec"]),
            spec_from_json(config["action_spec"]),
            config["key_map"],
        )
        with torch.device("meta"):
            expected = family.model_class(*arguments, **parts).state_dict()
    except _NoEncoderError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        # Families check their numbers; what one of another package lets through fails as its layers are built.
        raise ValueError(f"{folder / CONFIG_FILE} describes no model: {error} {_REMEDY}") from error
    _check_weights(folder / WEIGHTS_FILE, expected)
    model = family.model_class(*arguments, **parts)
    weights = load_file(folder / WEIGHTS_FILE)
    model.load_state_dict(weights, strict=True)
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(
                f"{folder / WEIGHTS_FILE}: tensor {name!r} holds values that are not finite. Training had diverged "
                "when it was saved, or the file is damaged; take an earlier checkpoint or another copy."
            )
    return model


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


def push_world_model(
    model: Any,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str | None,
    result: Mapping[str, Json] | None,
) -> str:
    """The hash of the commit that put a WorldModel's two files and its model card on the hub; see `hub.upload`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_world_model(model, folder)
        card = hub.model_card(repo_id, _read_config(folder / CONFIG_FILE), model.num_parameters(), result)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        return hub.upload(
            folder,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message or f"Push a {model.model_type} world model",
        )


def _newest_model(folder: Path) -> Path:
    """Where a directory's model stands: in the directory itself or, for a run, in its newest checkpoint."""
    file = folder / CONFIG_FILE
    config = _read_json(file) if file.is_file() else None
    if not isinstance(config, dict) or "recipe" not in config:
        return folder
    checkpoints = sorted((folder / "checkpoints").glob("step_*"))
    if not checkpoints:
        raise FileNotFoundError(
            f"{folder} is a run that holds no checkpoint; it was stopped before its first one. Train it again."
        )
    return checkpoints[-1] / "model"


def _read_json(path: Path) -> Json:
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"{path} is larger than {_LARGEST_CONFIG} bytes; this is no world model configuration.")
    try:
        return json.loads(path.read_text(), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: a number may have too many digits
        raise ValueError(f"{path} is not JSON: {error}. {_REMEDY}") from error


def _each_once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """The object of the pairs. Raises ValueError if a name occurs twice: readers differ in which of them counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} occurs twice in one object")
    return found


def _read_config(path: Path) -> dict[str, Json]:
    config = _read_json(path)
    if not isinstance(config, dict) or set(config) != _FIELDS:
        fields = sorted(config) if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path} must have exactly the fields {sorted(_FIELDS)}, got {fields}.")
    key_map = config["key_map"]
    if not isinstance(config["model_type"], str):
        raise ValueError(f"{path}: model_type must be the name of a family, got {config['model_type']!r}.")
    if not isinstance(key_map, dict) or not all(
        isinstance(key, list) and key and all(isinstance(part, str) for part in key) for key in key_map.values()
    ):
        raise ValueError(f"{path}: key_map must give each name the list of its key's parts, got {key_map!r}.")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {config['format_version']!r}; this library reads version {FORMAT_VERSION}. "
            "Load it with the library version that its field 'library_version' names."
        )
    return config


def _check_weights(path: Path, expected: Mapping[str, Tensor]) -> None:
    with open(path, "rb") as file:
        start = file.read(8)
    try:
        if int.from_bytes(start, "little") > _LARGEST_HEADER:  # parsing it would take many times as much memory
            raise SafetensorError(f"its header would have more than {_LARGEST_HEADER} bytes")
        with safe_open(path, framework="pt") as weights:
            found = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 (not a mapping)
            described = {name: (tuple(piece.get_shape()), piece.get_dtype()) for name, piece in found.items()}
    except SafetensorError as error:
        pickled = start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05"))
        remedy = (
            "It begins as a pickle does, which can run code and is never read: ask for the model as safetensors, or "
            "turn an official checkpoint into one with worldloom import."
            if pickled
            else _REMEDY
        )
        raise ValueError(f"{path} is not a readable safetensors file: {error}. {remedy}") from error
    try:
        check_tensors(described, expected, str(path))
    except ValueError as error:
        raise ValueError(f"{error} {_REMEDY}") from error


_SAFETENSORS_DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def check_tensors(
    found: Mapping[str, tuple[tuple[int, ...], str]], expected: Mapping[str, Tensor], source: str
) -> None:
    """Raise ValueError unless the expected tensors and no others are found, with their shapes and dtype names."""
    for name in sorted(set(expected) - set(found)):
        raise ValueError(f"{source} lacks the tensor {name!r} of shape {tuple(expected[name].shape)}.")
    for name in sorted(set(found) - set(expected)):
        raise ValueError(
            f"{source} has an extra tensor {name!r} of shape {found[name][0]}.{did_you_mean(name, expected)}"
        )
    for name, tensor in expected.items():
        wanted = (tuple(tensor.shape), _SAFETENSORS_DTYPES[tensor.dtype])
        if found[name] != wanted:
            raise ValueError(f"{source}: the tensor {name!r} is {found[name]}, but the model needs {wanted}.")


def read_tensor_file(path: str | Path, origin: str) -> Any:
    """What a file of `torch.save` holds, for importers; tensors stay on disk until they are read.

    Args:
        origin: whose checkpoint it should be, for messages.
    Raises FileNotFoundError; ValueError if the file is something else, or holds any object but tensors, plain values
    and containers of them: such an object is named and never built.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    try:
        foreign = sorted(get_unsafe_globals_in_checkpoint(path))
        content = None if foreign else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a checkpoint written by torch.save: {error}") from error
    if foreign:
        raise ValueError(
            f"{path} holds the pickled object {' and '.join(map(repr, foreign))}, which was not loaded: an official "
            f"{origin} checkpoint holds tensors only. Do not load this file with other tools."
        )
    return content


class AutoWorldModel:
    """World models by name, as in `AutoWorldModel.from_pretrained("tdmpc2:5m", env=env)`."""

    def __init__(self) -> None:
        raise TypeError("AutoWorldModel is not instantiated; call AutoWorldModel.from_pretrained(name).")

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        observation_spec: Composite | None = None,
        action_spec: Composite | None = None,
        env: EnvBase | None = None,
        encoder: nn.Module | None = None,
    ) -> Any:
        """The model that a name means: a preset "family:preset" with fresh weights and a warning, a directory with its
        weights (of a run, its newest checkpoint's), or "organization/name" on the hub with its weights.

        From the hub come config.json and model.safetensors alone, which are checked as those of a directory are.

        Args:
            revision: on the hub, a branch, a tag or a full commit hash; by default the main branch.
            local_files_only: ask the hub nothing, take what its cache has.
            cache_dir: of the hub's files; by default the one that huggingface_hub uses.
            observation_spec, action_spec: what the preset is built for; by default the family's documented example.
            env: takes both specs from this environment instead.
            encoder: for a saved model with a frozen encoder of your own (see `FrozenJEPA`), that module.
        Raises ValueError for an unknown preset, or for specs or a revision beside a name that has no use for them;
        FileNotFoundError for what is not there, PermissionError and ConnectionError for what the hub refuses.
        """
        if env is not None:
            if observation_spec is not None or action_spec is not None:
                raise ValueError("Give either env or the two specs, not both.")
            observation_spec, action_spec = specs_of(env)
        is_preset = isinstance(name, str) and ":" in name and "/" not in name
        is_directory = not is_preset and Path(name).is_dir()
        if revision is not None and (is_preset or is_directory):
            raise ValueError(f"{name} is not on the hub and has no revision {revision!r}; leave the revision out.")
        if is_preset:
            if encoder is not None:
                raise ValueError(f"{name} is a preset; build a model on your own encoder by its class, as FrozenJEPA.")
            return _fresh_preset(str(name), observation_spec, action_spec)
        if not is_directory and (isinstance(name, Path) or not hub.is_hub_id(name)):
            raise FileNotFoundError(
                f"{str(name)!r} is neither a directory nor a preset 'family:preset' nor a model 'organization/name' of "
                f"the hub.{did_you_mean(str(name), list_world_models())}"
            )
        if observation_spec is not None or action_spec is not None:
            where = "a directory" if is_directory else "a model on the hub"
            raise ValueError(f"{name} is {where} and brings its own specs; leave out env and the specs.")
        if is_directory:
            return load_world_model(_newest_model(Path(name)), encoder)
        files = (CONFIG_FILE, WEIGHTS_FILE)
        return load_world_model(
            hub.download(str(name), files, revision=revision, local_files_only=local_files_only, cache_dir=cache_dir),
            encoder,
        )


def _fresh_preset(name: str, observation_spec: Composite | None, action_spec: Composite | None) -> Any:
    family, config = find_preset(name)
    if (observation_spec is None) != (action_spec is None):
        raise ValueError("Give both observation_spec and action_spec, or neither.")
    if observation_spec is None:
        observation_spec, action_spec = family.model_class.default_specs()
    warnings.warn(
        f"{name!r} is a preset: the model has fresh weights. Train it, or load a directory that holds weights.",
        stacklevel=3,
    )
    return family.model_class(config, observation_spec, action_spec)
