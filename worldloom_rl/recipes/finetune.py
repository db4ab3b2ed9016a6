"""A run that begins with a trained model: which weights, whether they fit, what of them stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from tensordict import NestedKey
from torchrl.data import Composite, TensorSpec

from worldloom_rl.auto import AutoWorldModel
from worldloom_rl.config import WorldModelConfig
from worldloom_rl.recipes.finetune_options import StartedConfig
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.specs.observations import leaves_of
from worldloom_rl.world_model import WorldModel

START = "start"  # in the run directory: the model that the run began with, so that it goes on without what it came from

ModelT = TypeVar("ModelT", bound=WorldModel)


class Described(Protocol):
    """A model, or what its file says of it."""

    @property
    def config(self) -> WorldModelConfig: ...
    @property
    def observation_spec(self) -> Composite: ...
    @property
    def action_spec(self) -> Composite: ...


def starting_model(config: StartedConfig, kind: type[ModelT], fit: Callable[[ModelT], ModelT]) -> ModelT:
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
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(f"--freeze {' '.join(names)} leaves no weight that could learn: leave some part out.")


def check_fits(
    config: StartedConfig,
    before: tuple[Composite, Composite],
    now: tuple[Composite, Composite],
    remedy: str = "Make the environment so",
) -> None:
    """Raise ValueError if what is learned from shows or takes other shapes or kinds than the model was trained with.

    Args:
        before, now: specs of observations and actions, of the model and of what is learned from.
        remedy: what a person can do about it, beside training a new model.
    """
    for does, had, has in zip(("observes", "takes"), before, now, strict=True):
        old, new = _forms(had, does), _forms(has, does)
        if old != new:
            raise ValueError(
                f"{config.task} {does} {_told(new)}, but the model of {config.started_from} {_told(old)}: its weights "
                f"do not fit. {remedy}, or train a new model."
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
