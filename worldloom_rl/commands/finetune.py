"""`worldloom finetune`: a trained model goes on in another environment, as a run of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import tyro

from worldloom_rl.commands.ranges import Options, Unchecked, checked
from worldloom_rl.recipes.finetune_options import FineTuneConfig


@dataclass(frozen=True, kw_only=True)
class _Typed(Unchecked, FineTuneConfig):
    __doc__ = FineTuneConfig.__doc__

    started_from: tyro.conf.Positional[str]  # a run directory, a saved model, or one on the hub
    preset: tyro.conf.Suppress[str] = "saved"


def finetune(config: Options[_Typed]) -> None:
    """Go on with a trained TD-MPC2 or DreamerV3 in an environment, into a new run directory.

    What does not fit the model, such as a wider observation, is refused before anything is made.
    """
    told = checked(FineTuneConfig, config)
    from worldloom_rl.auto import AutoWorldModel
    from worldloom_rl.commands.finish import finish_run
    from worldloom_rl.models.dreamerv3 import DreamerV3
    from worldloom_rl.models.tdmpc2 import TDMPC2
    from worldloom_rl.recipes import dreamerv3_finetune, tdmpc2_finetune
    from worldloom_rl.recipes.finetune import preset_of
    from worldloom_rl.recipes.finetune_options import FineTunedDreamerV3RunConfig, FineTunedTDMPC2RunConfig

    model = AutoWorldModel.from_pretrained(told.started_from)
    fields = {field.name: getattr(told, field.name) for field in dataclasses.fields(FineTuneConfig)}
    fields["preset"] = preset_of(told.started_from)
    if isinstance(model, TDMPC2):
        run = tdmpc2_finetune.train(FineTunedTDMPC2RunConfig(**{**fields, **tdmpc2_finetune.fields_of(model)}))
    elif isinstance(model, DreamerV3):
        run = dreamerv3_finetune.train(FineTunedDreamerV3RunConfig(**fields))
    else:
        raise ValueError(
            f"{told.started_from} is a model of {model.model_type}; tdmpc2 and dreamerv3 are those that are fine-tuned."
        )
    finish_run(run.path)
