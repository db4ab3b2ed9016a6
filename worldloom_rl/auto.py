"""World models by name: a preset, a directory, a run, or a model on the hub."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import nn
from torchrl.data import Composite
from torchrl.envs import EnvBase

from worldloom_rl.config import did_you_mean
from worldloom_rl.pretrained import hub
from worldloom_rl.pretrained.format import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Description,
    load_world_model,
    read_description,
    read_json,
)
from worldloom_rl.pretrained.registry import find_preset, list_world_models
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.world_model import WorldModel


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
    ) -> WorldModel:
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
        is_directory = not _is_preset(name) and Path(name).is_dir()
        if revision is not None and (_is_preset(name) or is_directory):
            raise ValueError(f"{name} is not on the hub and has no revision {revision!r}; leave the revision out.")
        if _is_preset(name):
            if encoder is not None:
                raise ValueError(f"{name} is a preset; build a model on your own encoder by its class, as FrozenJEPA.")
            return _fresh_preset(str(name), observation_spec, action_spec)
        _require_some_model(name)
        if observation_spec is not None or action_spec is not None:
            where = "a directory" if is_directory else "a model on the hub"
            raise ValueError(f"{name} is {where} and brings its own specs; leave out env and the specs.")
        if is_directory:
            folder = _newest_model(Path(name))
        else:
            folder = hub.download(
                str(name),
                (CONFIG_FILE, WEIGHTS_FILE),
                revision=revision,
                local_files_only=local_files_only,
                cache_dir=cache_dir,
            )
        return _world_model(load_world_model(folder, encoder))

    @staticmethod
    def describe(name: str | Path) -> Description:
        """Family, configuration and specs of the saved model that a name means, of which config.json alone is read.

        Raises what `from_pretrained` does, and ValueError for a preset, which nobody has saved.
        """
        if _is_preset(name):
            raise ValueError(f"{name} is a preset, whose weights are fresh; name a saved model or a run.")
        _require_some_model(name)
        if Path(name).is_dir():
            folder = _newest_model(Path(name))
        else:
            folder = hub.download(str(name), (CONFIG_FILE,), revision=None, local_files_only=False, cache_dir=None)
        return read_description(folder / CONFIG_FILE)


def _is_preset(name: str | Path) -> bool:
    return isinstance(name, str) and ":" in name and "/" not in name


def _require_some_model(name: str | Path) -> None:
    """Raise FileNotFoundError for what is no directory, and has no name that the hub takes."""
    if not Path(name).is_dir() and (isinstance(name, Path) or not hub.is_hub_id(name)):
        raise FileNotFoundError(
            f"{str(name)!r} is neither a directory nor a preset 'family:preset' nor a model 'organization/name' of "
            f"the hub.{did_you_mean(str(name), list_world_models())}"
        )


def _fresh_preset(name: str, observation_spec: Composite | None, action_spec: Composite | None) -> WorldModel:
    family, config = find_preset(name)
    if (observation_spec is None) != (action_spec is None):
        raise ValueError("Give both observation_spec and action_spec, or neither.")
    if observation_spec is None or action_spec is None:
        observation_spec, action_spec = family.model_class.default_specs()
    warnings.warn(
        f"{name!r} is a preset: the model has fresh weights. Train it, or load a directory that holds weights.",
        stacklevel=3,
    )
    return _world_model(family.model_class(config, observation_spec, action_spec))


def _newest_model(folder: Path) -> Path:
    """Where a directory's model stands: in the directory itself or, for a run, in its newest checkpoint."""
    file = folder / CONFIG_FILE
    config = read_json(file) if file.is_file() else None
    if not isinstance(config, dict) or "recipe" not in config:
        return folder
    checkpoints = sorted((folder / "checkpoints").glob("step_*"))
    if not checkpoints:
        raise FileNotFoundError(
            f"{folder} is a run that holds no checkpoint; it was stopped before its first one. Train it again."
        )
    return checkpoints[-1] / "model"


def _world_model(model: object) -> WorldModel:
    if not isinstance(model, WorldModel):
        raise TypeError(f"The registered class {type(model).__name__} is no WorldModel; derive it from that class.")
    return model
