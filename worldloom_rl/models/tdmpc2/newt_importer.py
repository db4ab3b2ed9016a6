"""Checkpoints of newt, TD-MPC2's successor of 200 tasks, as our TD-MPC2 with fixed embeddings of the tasks' texts.

Sizes are read from the tensors; `NewtSettings` holds what these do not tell. Names come as `agent.save` wrote them,
with and without "module." before them. What the model computes is newt's. How it learns on is TD-MPC2's way: newt's
losses and order of updates are others.

Reference: nicklashansen/newt; the layout was read in public forks of its code, and no published file was at hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from worldloom_rl.atomic import require_replaceable
from worldloom_rl.models.tdmpc2.model import TDMPC2
from worldloom_rl.models.tdmpc2.official.names import has_official_layers
from worldloom_rl.models.tdmpc2.official.newt_names import (
    MASKS,
    TASKS,
    is_of_a_member,
    newt_names,
    sizes_as_tdmpc2,
)
from worldloom_rl.models.tdmpc2.official.settings import NewtSettings as NewtSettings
from worldloom_rl.models.tdmpc2.official.sizes import Source, describe
from worldloom_rl.pretrained.foreign import check_finite, find_state_dict, tensors_of, without_wrappers
from worldloom_rl.pretrained.format import holds_a_model
from worldloom_rl.pretrained.tensor_files import read_tensor_file
from worldloom_rl.pretrained.tensors import TensorKind, mismatches, refuse_mismatches
from worldloom_rl.tasks import named_tasks


def import_checkpoint(checkpoint: str | Path, output: str | Path, settings: NewtSettings | None = None) -> TDMPC2:
    """The model of a checkpoint of newt, also written to the directory `output` as `save_pretrained` does.

    Raises FileNotFoundError, or ValueError naming the first thing that is wrong; nothing is written then.
    """
    require_replaceable(Path(output), holds_a_model)
    found = find_state_dict(read_tensor_file(checkpoint, "newt"), has_official_layers, str(checkpoint))
    model = model_from_state_dict(found, settings)
    model.save_pretrained(output)
    return model


def model_from_state_dict(state_dict: Mapping[str, object], settings: NewtSettings | None = None) -> TDMPC2:
    """The model with the weights of newt's state dict.

    Raises ValueError naming every missing, extra or mis-shaped tensor and every entry that is no tensor.
    """
    settings = settings or NewtSettings()
    tensors = tensors_of(without_wrappers(state_dict, has_official_layers))
    if not any(map(is_of_a_member, tensors)):
        raise ValueError("The checkpoint has no '_Qs.online._Qs.0.…', as those of newt do; is it one of TD-MPC2?")
    sizes = sizes_as_tdmpc2(tensors)
    if TASKS not in tensors:
        _check_acts_wholly(sizes.pop(MASKS, None))
    config, observation_spec, action_spec = describe(Source(sizes), dataclasses.replace(settings, tasks=()))
    names = named_tasks(settings.tasks)
    if config.num_tasks:
        _check_observed(observation_spec[settings.observation_key or "observation"].shape[0], settings)
        config = dataclasses.replace(config, fixed_task_embedding=True, task_names=names or config.task_names)
    elif names:
        raise ValueError(f"tasks: {len(names)} are named, but the checkpoint is of one task, without {TASKS!r}.")
    with torch.device("meta"):
        ours = TDMPC2(config, observation_spec, action_spec).state_dict()
    parts = {name: newt_names(name, config.num_q) for name in ours}
    actions = action_spec[settings.action_key].shape[0]
    needed = {TASKS: ours["task_embedding.weight"].shape} if config.num_tasks else {}
    needed |= {
        MASKS: torch.Size((max(config.num_tasks, 1), actions)),
        "log_std_min": torch.Size(),
        "log_std_dif": torch.Size(),
    }
    for name, theirs in parts.items():
        needed |= {each: ours[name].shape[1:] if is_of_a_member(each) else ours[name].shape for each in theirs}
    refuse_mismatches(
        mismatches(
            {name: TensorKind(tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()},
            {name: TensorKind(tuple(shape), str(torch.float32)) for name, shape in needed.items()},
        ),
        "This is no checkpoint of newt that we know: it",
    )
    check_finite(tensors, "The checkpoint")
    model = TDMPC2(config, observation_spec, action_spec)
    model.load_state_dict(
        {
            name: torch.stack([tensors[each] for each in theirs]) if is_of_a_member(theirs[0]) else tensors[theirs[0]]
            for name, theirs in parts.items()
        }
    )
    return model.eval()


def _check_acts_wholly(masks: Tensor | None) -> None:
    """Raise ValueError if a model of one task leaves some of its actions out."""
    if masks is not None and (masks.shape[:1] != (1,) or not bool((masks == 1).all())):
        raise ValueError(
            f"{MASKS!r} of shape {tuple(masks.shape)} leaves actions out, but without {TASKS!r} the checkpoint is of "
            "one task, all of whose actions count."
        )


def _check_observed(width: int, settings: NewtSettings) -> None:
    if width != settings.observation_width:
        raise ValueError(
            f"'_encoder.state.0.weight' reads {width} numbers beside the task's embedding, but newt's tasks observe "
            f"{settings.observation_width} (observation_width); models that also read features of images are refused."
        )
