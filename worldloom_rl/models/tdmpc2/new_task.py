"""A TD-MPC2 that goes on in another environment: the weights of a trained one, numbers and spaces of the new one.

The authors' way (nicklashansen/tdmpc2, issues 53, 64 and 88; no code of it was published): everything that learned is
kept, target Qs too, and a new task's embedding begins as that of a task like it.
"""

from __future__ import annotations

import dataclasses

import torch
from torchrl.data import Composite

from worldloom_rl.config import Json
from worldloom_rl.models.tdmpc2.config import TDMPC2Config, fields_of_tasks
from worldloom_rl.models.tdmpc2.encoder import specs_of_tasks
from worldloom_rl.models.tdmpc2.model import TDMPC2
from worldloom_rl.pretrained.weights import copy_weights
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.specs.observations import is_real_vector, leaves_of
from worldloom_rl.tasks import TaskSet

MEAN, RANDOM = "mean", "random"
_EMBEDDING = "task_embedding.weight"


def with_task(model: TDMPC2, task: TaskSet, like: str = MEAN, **changes: Json) -> TDMPC2:
    """A model of one new task from one of several: its weights, and one row of its embedding.

    The new model observes and acts as wide as the old one; the new task's numbers stand first, zeros behind.

    Args:
        task: a single one.
        like: name, or number, of the task whose embedding the new one begins with; "mean" of all, or "random".
        changes: further fields of the configuration, such as `horizon`.
    Raises ValueError if the task is wider than the model, or `like` none of the model's tasks.
    """
    if model.task_embedding is None:
        raise ValueError("The model knows one task, which has no embedding that a new one could begin with.")
    name = task.names[0]
    widths = widths_of(model.observation_spec, model.action_spec)
    for does, own, most in (
        ("observes", task.observation_width, widths[0]),
        ("takes", task.action_width, widths[1]),
    ):
        if own > most:
            raise ValueError(
                f"{name} {does} {own} numbers, but the model {most} at most: what is wider than its tasks were does "
                "not fit its weights. Train a new model."
            )
    config = dataclasses.replace(model.config, **{**fields_of_tasks(task), **changes})
    shared = TaskSet((name,), widths[:1], widths[1:], task.episode_lengths)
    new = TDMPC2(config, *specs_of_tasks(shared))
    rows = model.task_embedding.weight.detach()
    if like != RANDOM:
        row = rows.mean(0) if like == MEAN else rows[_number(model, like)]
        with torch.no_grad():
            assert new.task_embedding is not None
            new.task_embedding.weight[0] = row
    copy_weights(model, new, but=_EMBEDDING)
    return new


def in_environment(
    model: TDMPC2, observation_spec: Composite, action_spec: Composite, discount: float, **changes: Json
) -> TDMPC2:
    """The model with its weights, for an environment of the same shapes and perhaps other bounds.

    Args:
        discount: γ in the new environment.
        changes: further fields of the configuration, which count more.
    """
    config: TDMPC2Config = dataclasses.replace(model.config, **{"discount": discount, **changes})
    new = TDMPC2(config, observation_spec, action_spec)
    copy_weights(model, new)
    return new


def widths_of(observation_spec: Composite, action_spec: Composite) -> tuple[int, int]:
    """The numbers that a model of several tasks with these specs observes and takes."""
    vectors = filter(is_real_vector, leaves_of(observation_spec).values())
    return sum(leaf.shape.numel() for leaf in vectors), ActionSpace(action_spec).width


def _number(model: TDMPC2, like: str) -> int:
    if model.tasks is not None:
        return model.tasks.number(like)
    if like.isdecimal() and int(like) < model.config.num_tasks:
        return int(like)
    raise ValueError(
        f"{like!r} is none of the model's tasks, which have numbers and no names: give one of 0 to "
        f"{model.config.num_tasks - 1}, {MEAN} or {RANDOM}."
    )
