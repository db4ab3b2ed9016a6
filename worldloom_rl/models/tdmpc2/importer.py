"""Official TD-MPC2 checkpoints (`.pt`) as our models: current files and those of the first release.

All sizes are read from the tensors; `ImportSettings` holds what tensors do not tell. The match of names and shapes is
strict, and a file can bring nothing but tensors: an object in it is refused by name and never built.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, TensorSpec, Unbounded

from worldloom_rl.models.tdmpc2.config import TDMPC2Config
from worldloom_rl.models.tdmpc2.import_settings import ImportSettings as ImportSettings
from worldloom_rl.models.tdmpc2.model import TDMPC2
from worldloom_rl.pretrained.files import read_tensor_file

_ENSEMBLES = ("_Qs.params", "_detach_Qs_params", "_target_Qs_params")  # the second duplicates the first
_AFFINE = ("weight", "bias")
_NORMED = ("weight", "bias", "ln.weight", "ln.bias")  # of a layer, in the order in which the first release numbers them


def import_checkpoint(checkpoint: str | Path, output: str | Path, settings: ImportSettings | None = None) -> TDMPC2:
    """The model of an official checkpoint, also written to the directory `output` as `save_pretrained` does.

    Raises FileNotFoundError, or ValueError naming the first thing that is wrong; nothing is written then.
    """
    model = model_from_state_dict(read_checkpoint(checkpoint), settings)
    model.save_pretrained(output)
    return model


def read_checkpoint(checkpoint: str | Path) -> dict[str, object]:
    """The state dict of a file that the official `agent.save` wrote; tensors stay on disk until they are read.

    Raises ValueError if the file is something else, or holds any object but tensors, sizes and devices.
    """
    path = Path(checkpoint)
    content = read_tensor_file(path, "TD-MPC2")
    if isinstance(content, dict) and "model" in content:
        others = sorted(str(name) for name in content if name != "model")
        if others:
            raise ValueError(f"{path} holds {others} beside 'model'; the official agent saves 'model' alone.")
        content = content["model"]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, but a dict of named tensors is expected.")
    return content


def model_from_state_dict(state_dict: Mapping[str, object], settings: ImportSettings | None = None) -> TDMPC2:
    """The model with the weights of an official state dict, in either naming.

    Raises ValueError naming every missing, extra or mis-shaped tensor and every entry that is no tensor.
    """
    settings = settings or ImportSettings()
    source = _Source(_tensors(state_dict))
    config, observation_spec, action_spec = _describe(source, settings)
    with torch.device("meta"):
        ours = TDMPC2(config, observation_spec, action_spec).state_dict()
    names = {official_name(name): name for name in ours}
    expected = {official: tuple(ours[name].shape) for official, name in names.items()}
    if not source.legacy:
        online = {name: shape for name, shape in expected.items() if name.startswith("_Qs.params.")}
        expected |= {name.replace("_Qs.params", "_detach_Qs_params"): shape for name, shape in online.items()}
        expected |= {"log_std_min": (), "log_std_dif": ()}
        if config.num_tasks:
            expected["_action_masks"] = (config.num_tasks, ours["behavior.policy.2.bias"].shape[0] // 2)
    source.check(expected)
    model = TDMPC2(config, observation_spec, action_spec)
    model.load_state_dict({name: source.tensors[official] for official, name in names.items()}, strict=True)
    return model


def _tensors(state_dict: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors of a state dict, without tensordict's notes on batch size and device."""
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        prefix, _, last = str(name).rpartition(".")
        if prefix in _ENSEMBLES and last == "__batch_size" and isinstance(value, torch.Size):
            continue
        if prefix in _ENSEMBLES and last == "__device" and (value is None or isinstance(value, torch.device)):
            continue
        if type(value) not in (Tensor, torch.nn.Parameter) or not isinstance(name, str):
            raise ValueError(f"The checkpoint's entry {name!r} is a {type(value).__name__}, but a tensor is expected.")
        assert isinstance(value, Tensor)
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"The checkpoint's tensor {name!r} of shape {tuple(value.shape)} lacks numbers of its own."
            )
        tensors[name] = value
    return tensors


class _Source:
    """The tensors of a checkpoint by their current official names; errors give the names of the file."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        numbered = re.compile(r"_(target_)?Qs\.params\.(\d+)")
        self.legacy = any(numbered.fullmatch(name) for name in tensors)
        self.tensors = {_current_name(name) if self.legacy else name: tensor for name, tensor in tensors.items()}

    def spelled(self, name: str) -> str:
        """The name as the file has it."""
        return _first_release_name(name) if self.legacy else name

    def size(self, name: str, axis: int) -> list[int]:
        """The size of that axis, as a list of one; empty if the tensor or the axis is missing."""
        tensor = self.tensors.get(name)
        return [tensor.shape[axis]] if tensor is not None and tensor.dim() > axis else []

    def layer(self, prefix: str, parts: Iterable[str], axis: int) -> list[int]:
        """The sizes of that axis in the tensors of one layer."""
        return [size for part in parts for size in self.size(f"{prefix}.{part}", axis)]

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError unless exactly the expected tensors are there, with their shapes and of the right type."""
        missing = [name for name in expected if name not in self.tensors]
        wrong = [f"lacks {self.spelled(name)!r} of shape {expected[name]}" for name in missing]
        for name, tensor in self.tensors.items():
            spelled, shape = self.spelled(name), tuple(tensor.shape)
            if name not in expected:
                wrong.append(f"has the extra tensor {spelled!r} of shape {shape}")
            elif shape != expected[name]:
                wrong.append(f"has {spelled!r} of shape {shape} where {expected[name]} is needed")
            elif tensor.dtype != torch.float32 and not name.startswith("log_std_"):
                wrong.append(f"has {spelled!r} of type {tensor.dtype} where torch.float32 is needed")
        if wrong:
            raise ValueError(f"This is no official TD-MPC2 checkpoint: it {'; it '.join(wrong)}.")


def _describe(source: _Source, settings: ImportSettings) -> tuple[TDMPC2Config, Composite, Composite]:
    """Configuration and specs. A size is the one on which most tensors agree, so that a wrong one stands out."""
    ensembles = [name for name in _ENSEMBLES if not (source.legacy and name == "_detach_Qs_params")]
    episodic = any(name.startswith("_termination.") for name in source.tensors)
    pixels = any(name.startswith("_encoder.rgb.") for name in source.tensors)
    tasks = bool({"_task_emb.weight", "_action_masks"} & set(source.tensors) or settings.action_dims)
    heads = ["_dynamics", "_reward", "_pi", *(["_termination"] if episodic else [])]

    def most(size: str, votes: list[int]) -> int:
        if not votes:
            raise ValueError(f"The checkpoint has none of the tensors that tell its {size}; is it one of TD-MPC2?")
        return Counter(votes).most_common(1)[0][0]

    hidden = [size for head in heads for i in range(2) for size in source.layer(f"{head}.{i}", _NORMED, 0)]
    hidden += [size for name in ensembles for i in range(2) for size in source.layer(f"{name}.{i}", _NORMED, 1)]
    bins = source.layer("_reward.2", _AFFINE, 0)
    bins += [size for name in ensembles for size in source.layer(f"{name}.2", _AFFINE, 1)]
    members = [size for name in ensembles for i in range(3) for size in source.layer(f"{name}.{i}", _NORMED, 0)]
    sizes = {
        "mlp_dim": most("mlp_dim", hidden),
        "num_bins": most("num_bins", bins),
        "num_q": most("number of Qs", members),
    }

    latents = source.layer("_dynamics.2", _NORMED, 0)
    if pixels:
        channels = [size for i in (2, 4, 6, 8) for size in source.layer(f"_encoder.rgb.{i}", _AFFINE, 0)]
        sizes["num_channels"] = most("num_channels", channels)
        latents += [16 * size for size in source.layer("_encoder.rgb.8", _AFFINE, 0)]
    else:
        indices = [re.match(r"_encoder\.state\.(\d+)\.", name) for name in source.tensors]
        layers = max([int(index[1]) for index in indices if index], default=0) + 1
        sizes["encoder_layers"] = max(layers, 2)
        widths = [size for i in range(max(layers - 1, 1)) for size in source.layer(f"_encoder.state.{i}", _NORMED, 0)]
        sizes["encoder_dim"] = most("enc_dim", widths)
        latents += source.layer(f"_encoder.state.{layers - 1}", _NORMED, 0)
    latent = sizes["latent_dim"] = most("latent_dim", latents)

    # Dynamics, reward and Qs read latent, task and action; the policy reads latent and task, and gives 2A numbers.
    inputs = [*source.size("_dynamics.0.weight", 1), *source.size("_reward.0.weight", 1)]
    step = most("input width", inputs + [size for name in ensembles for size in source.size(f"{name}.0.weight", 2)])
    actions = [size // 2 for size in source.layer("_pi.2", _AFFINE, 0)] + source.size("_action_masks", 1)
    task = 0
    if tasks:
        by_policy = [size - latent for size in source.size("_pi.0.weight", 1)]
        by_actions = [step - latent - action for action in actions[:1]]
        task = sizes["task_dim"] = most("task_dim", source.size("_task_emb.weight", 1) + by_policy + by_actions)
    action = most("action_dim", [*actions, step - latent - task])

    log_std_min, log_std_max = settings.log_std_min, settings.log_std_max
    if {"log_std_min", "log_std_dif"} <= set(source.tensors) and not source.legacy:
        log_std_min = _number(source, "log_std_min")
        log_std_max = log_std_min + _number(source, "log_std_dif")
    action_dims = _action_dims(source, settings.action_dims) if tasks else ()

    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    keys = {name: given.pop(name) for name in ("observation_key", "task_key", "action_key")}
    given |= {"action_dims": action_dims, "log_std_min": log_std_min, "log_std_max": log_std_max}
    config = TDMPC2Config(**{**given, **sizes}, episodic=episodic)

    leaf: TensorSpec
    if pixels:
        frames = (source.size("_encoder.rgb.2.weight", 1) or [1])[0]
        leaf = Bounded(0, 255, shape=(frames, 64, 64), dtype=torch.uint8)
    else:
        width = (source.size("_encoder.state.0.weight", 1) or [0])[0] - task
        leaf = Unbounded((max(width, 1),))
    observation_spec = Composite({keys["observation_key"] or ("pixels" if pixels else "observation"): leaf})
    if tasks:
        observation_spec[keys["task_key"]] = Categorical(len(action_dims), shape=(), dtype=torch.int64)
    action_spec = Composite({keys["action_key"]: Bounded(-1.0, 1.0, shape=(max(action, 1),), dtype=torch.float32)})
    return config, observation_spec, action_spec


def _number(source: _Source, name: str) -> float:
    tensor = source.tensors[name]
    if tensor.dim() or tensor.is_complex() or not bool(tensor.isfinite()):
        raise ValueError(f"The checkpoint's {name!r} of shape {tuple(tensor.shape)} should be one real number.")
    return float(tensor)


def _action_dims(source: _Source, given: tuple[int, ...]) -> tuple[int, ...]:
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


def official_name(name: str) -> str:
    """The current official name of one of our tensors."""
    prefixes: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
        (r"encoder\.pixels\.0\.(\d+)", lambda found: f"_encoder.rgb.{int(found[1]) + 2}"),  # 0 and 1 shift and scale
        (r"encoder\.state", lambda _: "_encoder.state"),
        (r"dynamics", lambda _: "_dynamics"),
        (r"reward_head", lambda _: "_reward"),
        (r"termination_head", lambda _: "_termination"),
        (r"task_embedding", lambda _: "_task_emb"),
        (r"behavior\.policy", lambda _: "_pi"),
        (r"behavior\.q_ensemble\.layers", lambda _: "_Qs.params"),
        (r"behavior\.target_q_ensemble\.layers", lambda _: "_target_Qs_params"),
    )
    for pattern, official in prefixes:
        found = re.match(pattern + r"(?=\.)", name)
        if found:
            return official(found) + re.sub(r"\.norm[._]", ".ln.", name[found.end() :])
    raise KeyError(f"The official code has no counterpart of {name!r}.")


def _current_name(name: str) -> str:
    """The current name of a first-release tensor: Q tensors were numbered 4 · layer + place in the layer."""
    found = re.fullmatch(r"_(target_)?Qs\.params\.(\d+)", name)
    if not found:
        return name
    layer, place = divmod(int(found[2]), len(_NORMED))
    return f"{'_target_Qs_params' if found[1] else '_Qs.params'}.{layer}.{_NORMED[place]}"


def _first_release_name(name: str) -> str:
    """The inverse of `_current_name`."""
    found = re.fullmatch(r"(_Qs\.params|_target_Qs_params)\.(\d+)\.(.+)", name)
    if not found or found[3] not in _NORMED:
        return name
    prefix = "_Qs.params" if found[1] == "_Qs.params" else "_target_Qs.params"
    return f"{prefix}.{len(_NORMED) * int(found[2]) + _NORMED.index(found[3])}"
