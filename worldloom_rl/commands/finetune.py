"""`worldloom finetune`: a trained model goes on in another environment, as a run of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from worldloom_rl.commands.ranges import Options, Unchecked, checked
from worldloom_rl.config import Json, older_values
from worldloom_rl.recipes.finetune_options import EXPLORED, FINE_TUNED, FineTuneOptions, StartedConfig, acted

if TYPE_CHECKING:
    from torchrl.data import Composite

    from worldloom_rl.training.options import RunConfig
    from worldloom_rl.training.recipe import AnyRecipe


@dataclass(frozen=True, kw_only=True)
class _Typed(Unchecked, FineTuneOptions):
    __doc__ = FineTuneOptions.__doc__

    started_from: tyro.conf.Positional[str]  # a run directory, a saved model, or one on the hub
    preset: tyro.conf.Suppress[str] = "saved"


def finetune(config: Options[_Typed]) -> None:
    """Go on with a trained TD-MPC2, DreamerV3 or JEPA in an environment, into a new run directory.

    What does not fit the model, such as a wider observation, is refused before anything is made.
    """
    options = checked(FineTuneOptions, config)
    from worldloom_rl.commands.finish import finish_run
    from worldloom_rl.training import loop

    finish_run(loop.train(*fine_tuning(options)).path)


def fine_tuning(options: FineTuneOptions) -> tuple[AnyRecipe, StartedConfig]:
    """The recipe and the configuration of the run, which are known without the model's weights.

    Raises what `AutoWorldModel.describe` does, and ValueError for a family that is not fine-tuned, or for an option
    that its recipe does not have.
    """
    from worldloom_rl.auto import AutoWorldModel
    from worldloom_rl.commands.recipes import find_recipe
    from worldloom_rl.recipes import tdmpc2_finetune

    model = AutoWorldModel.describe(options.started_from)
    family = model.family.name
    if family not in FINE_TUNED:
        raise ValueError(f"{options.started_from} is a model of {family}; {sorted(FINE_TUNED)} are fine-tuned.")
    kind = FINE_TUNED[family]
    values: dict[str, Json] = {"env": options.env, "preset": options.preset}
    if family == "tdmpc2":
        values |= tdmpc2_finetune.fields_of(model)
    if family == "jepa":
        values["image_size"] = _image_size(model.observation_spec)
    if (old := _run_of(Path(options.started_from))) is not None:
        began_as = [f"{name}={value}" for name, value in acted(old).items()]
        began_as += [EXPLORED] * old.explore
        values |= {"preset": old.preset, "began_as": tuple(began_as)}
        values |= acted(old) if options.inherit else {}
    return find_recipe(f"{family}-finetune"), kind(**{**values, **_given(options, kind, family)})


def _given(options: FineTuneOptions, kind: type[StartedConfig], family: str) -> dict[str, Json]:
    """The options that a person gave, as the configuration takes them. Raises ValueError for one that it has not."""
    fields = {field.name: field.default for field in dataclasses.fields(FineTuneOptions) if field.name != "inherit"}
    given = {name: getattr(options, name) for name, default in fields.items() if getattr(options, name) != default}
    if foreign := [name for name in given if name not in kind.__dataclass_fields__]:
        option = foreign[0].replace("_", "-")
        raise ValueError(f"--{option} is nothing that a fine-tuned {family} takes; leave it out.")
    return given


def _run_of(path: Path) -> RunConfig | None:
    """The configuration of the run that a path leads to, itself or a model in one of its checkpoints, if it does."""
    from worldloom_rl.commands.recipes import find_recipe
    from worldloom_rl.pretrained.format import CONFIG_FILE, read_json
    from worldloom_rl.training.fields import typed

    for folder in (path, *path.absolute().parents[2:3]):
        file = folder / CONFIG_FILE
        told = read_json(file) if file.is_file() else None
        if isinstance(told, dict) and isinstance(told.get("recipe"), str) and isinstance(told.get("config"), dict):
            kind = find_recipe(told["recipe"]).config_class
            return kind(**{**older_values(kind), **typed(kind, told["config"], str(file))})
    return None


def _image_size(spec: Composite) -> int | None:
    """Rows and columns of the images that a model observes; None without any, or where they are not square."""
    from worldloom_rl.specs.observations import is_image, leaves_of

    sizes = {tuple(leaf.shape[1:]) for leaf in leaves_of(spec).values() if is_image(leaf)}
    side = next(iter(sizes))[0] if len(sizes) == 1 else 0
    return side if sizes == {(side, side)} else None
