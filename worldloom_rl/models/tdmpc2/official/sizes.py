"""Configuration and specs from the sizes of an official TD-MPC2 checkpoint's tensors."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, TensorSpec, Unbounded

from worldloom_rl.models.tdmpc2.config import TDMPC2Config, fields_of_tasks
from worldloom_rl.models.tdmpc2.official.names import AFFINE, ENSEMBLES, NORMED, current_name, first_release_name
from worldloom_rl.models.tdmpc2.official.settings import ImportSettings
from worldloom_rl.tasks import TaskSet, named_tasks, published_tasks


class Source:
    """The tensors of a checkpoint by their current official names; errors give the names of the file."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        numbered = re.compile(r"_(target_)?Qs\.params\.(\d+)")
        self.legacy = any(numbered.fullmatch(name) for name in tensors)
        self.tensors = {current_name(name) if self.legacy else name: tensor for name, tensor in tensors.items()}
        if len(self.tensors) < len(tensors):
            raise ValueError("The checkpoint has a tensor of its Qs under two names; which is meant?")

    def spelled(self, name: str) -> str:
        """The name as the file has it."""
        return first_release_name(name) if self.legacy else name

    def size(self, name: str, axis: int) -> list[int]:
        """The size of that axis, as a list of one; empty if the tensor or the axis is missing."""
        tensor = self.tensors.get(name)
        return [tensor.shape[axis]] if tensor is not None and tensor.dim() > axis else []

    def layer(self, prefix: str, parts: Iterable[str], axis: int) -> list[int]:
        """The sizes of that axis in the tensors of one layer."""
        return [size for part in parts for size in self.size(f"{prefix}.{part}", axis)]

    def inputs(self) -> list[int]:
        """What dynamics, reward and Qs read: latent, task and action."""
        heads = [*self.size("_dynamics.0.weight", 1), *self.size("_reward.0.weight", 1)]
        return heads + [size for name in self.ensembles() for size in self.size(f"{name}.0.weight", 2)]

    def ensembles(self) -> list[str]:
        """The prefixes of Q tensors that the file has."""
        return [name for name in ENSEMBLES if not (self.legacy and name == "_detach_Qs_params")]

    def has(self, prefix: str) -> bool:
        """Whether a tensor's name begins so."""
        return any(name.startswith(prefix) for name in self.tensors)


def most(size: str, votes: list[int]) -> int:
    """The commonest vote: a size is the one on which most tensors agree, so that a wrong one stands out."""
    if not votes:
        raise ValueError(f"The checkpoint has none of the tensors that tell its {size}; is it one of TD-MPC2?")
    return Counter(votes).most_common(1)[0][0]


def describe(source: Source, settings: ImportSettings) -> tuple[TDMPC2Config, Composite, Composite]:
    """Configuration and specs."""
    episodic, pixels = source.has("_termination."), source.has("_encoder.rgb.")
    tasks = bool({"_task_emb.weight", "_action_masks"} & set(source.tensors) or settings.action_dims)
    sizes = _head_sizes(source, episodic) | _encoder_sizes(source, pixels)
    task, action = _task_and_action(source, sizes["latent_dim"], tasks)
    if tasks:
        sizes["task_dim"] = task
    ours = {field.name for field in dataclasses.fields(TDMPC2Config)}
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings) if field.name in ours}
    named = published_tasks(named_tasks(settings.tasks)) if settings.tasks else None
    if {"log_std_min", "log_std_dif"} <= set(source.tensors) and not source.legacy:
        given["log_std_min"] = _number(source, "log_std_min")
        given["log_std_max"] = given["log_std_min"] + _number(source, "log_std_dif")
    width = max((source.size("_encoder.state.0.weight", 1) or [0])[0] - task, 1)
    if tasks:
        legacy_dims = settings.action_dims or (named.action_widths if named and source.legacy else ())
        given["action_dims"] = _action_dims(source, legacy_dims)
        given["task_names"] = tuple(map(str, range(len(given["action_dims"]))))
    if named is not None:
        _check_named(named, given["action_dims"], width, settings.tasks)
        fields = fields_of_tasks(named)
        given |= fields if settings.discount == ImportSettings.discount else {**fields, "discount": settings.discount}
    config = TDMPC2Config(**{**given, **sizes}, episodic=episodic)
    return config, *_specs(source, settings, config, width, action)


def _specs(
    source: Source, settings: ImportSettings, config: TDMPC2Config, width: int, action: int
) -> tuple[Composite, Composite]:
    """What the model observes and how it acts."""
    leaf: TensorSpec
    pixels = source.has("_encoder.rgb.")
    if pixels:
        frames = (source.size("_encoder.rgb.2.weight", 1) or [1])[0]
        leaf = Bounded(0, 255, shape=(frames, 64, 64), dtype=torch.uint8)
    else:
        leaf = Unbounded((width,))
    observation_spec = Composite({settings.observation_key or ("pixels" if pixels else "observation"): leaf})
    if config.num_tasks:
        observation_spec[settings.task_key] = Categorical(config.num_tasks, shape=(), dtype=torch.int64)
    action_spec = Composite({settings.action_key: Bounded(-1.0, 1.0, shape=(max(action, 1),), dtype=torch.float32)})
    return observation_spec, action_spec


def _check_named(named: TaskSet, action_dims: tuple[int, ...], width: int, given: tuple[str, ...]) -> None:
    """Raise ValueError unless tasks that were named are those of a checkpoint, as far as its sizes tell."""
    told = " ".join(given)[:100]
    if len(named) != len(action_dims):
        found = f"has {len(action_dims)} tasks" if action_dims else "is of one task, without an embedding"
        raise ValueError(f"tasks {told}: {len(named)} tasks are named, but the checkpoint {found}.")
    for name, known, counted in zip(named.names, named.action_widths, action_dims, strict=True):
        if known != counted:
            raise ValueError(
                f"tasks {told}: {name!r} takes {known} actions, but that task of the checkpoint {counted}; name the "
                "tasks in its order."
            )
    if named.observation_width != width:
        raise ValueError(
            f"tasks {told}: the widest observes {named.observation_width} numbers, but the checkpoint reads {width}."
        )


def _head_sizes(source: Source, episodic: bool) -> dict[str, int]:
    ensembles, heads = source.ensembles(), ["_dynamics", "_reward", "_pi", *(["_termination"] if episodic else [])]
    hidden = [size for head in heads for i in range(2) for size in source.layer(f"{head}.{i}", NORMED, 0)]
    hidden += [size for name in ensembles for i in range(2) for size in source.layer(f"{name}.{i}", NORMED, 1)]
    bins = source.layer("_reward.2", AFFINE, 0)
    bins += [size for name in ensembles for size in source.layer(f"{name}.2", AFFINE, 1)]
    members = [size for name in ensembles for i in range(3) for size in source.layer(f"{name}.{i}", NORMED, 0)]
    return {
        "mlp_dim": most("mlp_dim", hidden),
        "num_bins": most("num_bins", bins),
        "num_q": most("number of Qs", members),
    }


def _encoder_sizes(source: Source, pixels: bool) -> dict[str, int]:
    sizes: dict[str, int] = {}
    latents = source.layer("_dynamics.2", NORMED, 0)
    if pixels:
        channels = [size for i in (2, 4, 6, 8) for size in source.layer(f"_encoder.rgb.{i}", AFFINE, 0)]
        sizes["num_channels"] = most("num_channels", channels)
        latents += [16 * size for size in source.layer("_encoder.rgb.8", AFFINE, 0)]
    else:
        indices = [re.match(r"_encoder\.state\.(\d{1,3})\.", name) for name in source.tensors]
        layers = max([int(index[1]) for index in indices if index], default=0) + 1
        sizes["encoder_layers"] = max(layers, 2)
        widths = [size for i in range(max(layers - 1, 1)) for size in source.layer(f"_encoder.state.{i}", NORMED, 0)]
        sizes["encoder_dim"] = most("enc_dim", widths)
        latents += source.layer(f"_encoder.state.{layers - 1}", NORMED, 0)
    return sizes | {"latent_dim": most("latent_dim", latents)}


def _task_and_action(source: Source, latent: int, tasks: bool) -> tuple[int, int]:
    """The widths of the task's embedding, 0 without tasks, and of actions.

    Dynamics, reward and Qs read latent, task and action; the policy reads latent and task, and gives 2A numbers.
    """
    step = most("input width", source.inputs())
    actions = [size // 2 for size in source.layer("_pi.2", AFFINE, 0)] + source.size("_action_masks", 1)
    task = 0
    if tasks:
        by_policy = [size - latent for size in source.size("_pi.0.weight", 1)]
        by_actions = [step - latent - action for action in actions[:1]]
        task = most("task_dim", source.size("_task_emb.weight", 1) + by_policy + by_actions)
    return task, most("action_dim", [*actions, step - latent - task])


def _number(source: Source, name: str) -> float:
    tensor = source.tensors[name]
    if tensor.dim() or tensor.is_complex() or not bool(tensor.isfinite()):
        raise ValueError(f"The checkpoint's {name!r} of shape {tuple(tensor.shape)} should be one real number.")
    return float(tensor)


def _action_dims(source: Source, given: tuple[int, ...]) -> tuple[int, ...]:
    """How many action dimensions each task uses: what the masks say, or for the first release what was given."""
    masks = source.tensors.get("_action_masks")
    rows = source.size("_task_emb.weight", 0)
    if masks is None:
        if not given:
            raise ValueError(
                "This multi-task checkpoint has no '_action_masks', as those of the first release: say with "
                "action_dims how many action dimensions each task uses, in the order of the tasks."
            )
        if rows and rows != [len(given)]:
            raise ValueError(f"action_dims names {len(given)} tasks, but '_task_emb.weight' has {rows[0]} rows.")
        return given
    if masks.dim() != 2 or not torch.equal(masks, (torch.arange(masks.shape[1]) < masks.sum(-1, keepdim=True)).float()):
        raise ValueError(
            f"'_action_masks' of shape {tuple(masks.shape)} should have a row a task, ones first and then zeros."
        )
    if rows and rows != [len(masks)]:
        raise ValueError(
            f"'_action_masks' has {len(masks)} rows, but '_task_emb.weight' has {rows[0]}; both one a task."
        )
    dims = tuple(int(count) for count in masks.sum(-1).tolist())
    if given and given != dims:
        raise ValueError(f"action_dims {given} was given, but the checkpoint's '_action_masks' say {dims}.")
    return dims
