"""Checkpoints as a directory of config.json and model.safetensors, and models by name. No pickle, no class paths."""

from __future__ import annotations

import json
import os
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
from torch import Tensor
from torchrl.data import Composite
from torchrl.envs import EnvBase

from worldloom_rl.config import Json, did_you_mean, spec_from_json, spec_to_json
from worldloom_rl.registry import find_family, find_preset, list_world_models

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_LARGEST_CONFIG = 2**22  # bytes
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


def load_world_model(directory: str | Path) -> Any:
    """The WorldModel that `save_world_model` wrote.

    Raises FileNotFoundError, or ValueError naming the first thing that is wrong: an unknown field, a missing or extra
    tensor, a wrong shape or dtype. All of it is checked against the model on the meta device before memory is taken.
    """
    folder = Path(directory)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}; a world model directory has {CONFIG_FILE} and {WEIGHTS_FILE}."
            )
    config = _read_config(folder / CONFIG_FILE)
    family = find_family(config["model_type"])
    arguments = (
        family.config_class.from_json(config["config"]),
        spec_from_json(config["observation_spec"]),
        spec_from_json(config["action_spec"]),
        config["key_map"],
    )
    with torch.device("meta"):
        expected = family.model_class(*arguments).state_dict()
    _check_weights(folder / WEIGHTS_FILE, expected)
    model = family.model_class(*arguments)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=True)
    return model


def _read_config(path: Path) -> dict[str, Json]:
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"{path} is larger than {_LARGEST_CONFIG} bytes; this is no world model configuration.")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
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
    try:
        with safe_open(path, framework="pt") as weights:
            found = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 (not a mapping)
            described = {name: (tuple(piece.get_shape()), piece.get_dtype()) for name, piece in found.items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}.") from error
    check_tensors(described, expected, str(path))


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


class AutoWorldModel:
    """World models by name, as in `AutoWorldModel.from_pretrained("tdmpc2:5m", env=env)`."""

    def __init__(self) -> None:
        raise TypeError("AutoWorldModel is not instantiated; call AutoWorldModel.from_pretrained(name).")

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        observation_spec: Composite | None = None,
        action_spec: Composite | None = None,
        env: EnvBase | None = None,
    ) -> Any:
        """The model in a directory with its weights, or a preset "family:preset" with fresh weights and a warning.

        Args:
            observation_spec, action_spec: what the preset is built for; by default the family's documented example.
            env: takes both specs from this environment instead.
        Raises ValueError for an unknown preset or for specs beside a directory, FileNotFoundError for a missing one.
        """
        if env is not None:
            if observation_spec is not None or action_spec is not None:
                raise ValueError("Give either env or the two specs, not both.")
            observation_spec, action_spec = specs_of(env)
        given = observation_spec is not None or action_spec is not None
        if Path(name).is_dir():
            if given:
                raise ValueError(f"{name} is a directory and brings its own specs; leave out env and the specs.")
            return load_world_model(name)
        if isinstance(name, Path) or ":" not in name:
            raise FileNotFoundError(
                f"{str(name)!r} is neither a directory nor a preset 'family:preset'."
                f"{did_you_mean(str(name), list_world_models())}"
            )
        family, config = find_preset(name)
        if given and (observation_spec is None or action_spec is None):
            raise ValueError("Give both observation_spec and action_spec, or neither.")
        if not given:
            observation_spec, action_spec = family.model_class.default_specs()
        warnings.warn(
            f"{name!r} is a preset: the model has fresh weights. Train it, or load a directory that holds weights.",
            stacklevel=2,
        )
        return family.model_class(config, observation_spec, action_spec)


def specs_of(env: EnvBase) -> tuple[Composite, Composite]:
    """The un-batched observation and action specs of an environment, as a model takes them.

    Bookkeeping that transforms add to the observations ("is_init", step counts, carried planner state) is left out.
    """
    observation = env.observation_spec_unbatched.clone()
    for key in ("is_init", "step_count", "planner", "latent", "previous_action"):
        if key in observation.keys():  # noqa: SIM118 (a spec is no mapping)
            del observation[key]
    return observation, env.full_action_spec_unbatched.clone()
