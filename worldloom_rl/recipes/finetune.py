"""A run that begins with a trained model: which weights, whether they fit, what of them stays, what it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tensordict import NestedKey
from torchrl.data import Composite, TensorSpec

from worldloom_rl.auto import AutoWorldModel
from worldloom_rl.recipes.finetune_options import FineTuneConfig
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.specs.observations import leaves_of
from worldloom_rl.world_model import WorldModel

START = "start"  # in the run directory: the model that the run began with, so that it goes on without what it came from

ModelT = TypeVar("ModelT", bound=WorldModel)


def starting_model(config: FineTuneConfig, kind: type[ModelT], fit: Callable[[ModelT], ModelT]) -> ModelT:
    """The model that the run begins with, on its device; kept in the run directory, and read from there later.

    Args:
        fit: makes of the model at `started_from` one for the environment.
    Raises ValueError for a model of another family, or a part to freeze that it does not have.
    """
    kept = Path(config.run_directory) / START if config.run_directory else None
    if kept is not None and kept.exists():
        model = AutoWorldModel.from_pretrained(kept)
        assert isinstance(model, kind)
    else:
        found = AutoWorldModel.from_pretrained(config.started_from)
        if not isinstance(found, kind):
            raise ValueError(f"{config.started_from} is a {found.model_type}, not a {kind.model_type}.")
        model = fit(found)
        if kept is not None:
            model.save_pretrained(kept)
    model = model.to(config.device).eval()
    _freeze(model, config.freeze)
    return model


def _freeze(model: WorldModel, names: tuple[str, ...]) -> None:
    parts = {name: part for name, part in model.named_children() if name not in ("behavior", "task_embedding")}
    able = {name: part for name, part in parts.items() if any(True for _ in part.parameters())}
    for name in names:
        if name not in able:
            raise ValueError(f"--freeze takes parts of the model, which are {sorted(able)}, got {name!r}.")
        able[name].requires_grad_(False)


def check_fits(config: FineTuneConfig, model: WorldModel, observation_spec: Composite, action_spec: Composite) -> None:
    """Raise ValueError if an environment shows or takes other shapes or kinds than the model was trained with."""
    pairs = (("observes", model.observation_spec, observation_spec), ("takes", model.action_spec, action_spec))
    for does, before, now in pairs:
        old, new = _forms(before, does), _forms(now, does)
        if old != new:
            raise ValueError(
                f"{config.env} {does} {_told(new)}, but the model of {config.started_from} {_told(old)}: its weights "
                "do not fit. Make the environment so, or train a new model."
            )


def _forms(spec: Composite, does: str) -> dict[NestedKey, str]:
    """What a leaf is, in words, by its key."""
    if does == "takes":
        kind = "continuous" if ActionSpace(spec).is_continuous else "discrete"
        return {key: f"{list(leaf.shape)} {kind}" for key, leaf in leaves_of(spec).items()}
    return {key: _form(leaf) for key, leaf in leaves_of(spec).items()}


def _form(leaf: TensorSpec) -> str:
    return f"{list(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"


def _told(forms: Mapping[NestedKey, str]) -> str:
    return ", ".join(f"{key} {form}" for key, form in sorted(forms.items(), key=str))


def preset_of(started_from: str) -> str:
    """The preset of the run that a path leads to, "saved" of a model that stands by itself."""
    file = Path(started_from) / "config.json"
    values = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return str(values["config"]["preset"]) if "recipe" in values else "saved"
