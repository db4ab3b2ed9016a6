"""Official DreamerV3 checkpoints (`agent.pkl`) as our models.

Sizes are read from the arrays, numbers from the run's config.yaml where it lies beside them. The match of names and
shapes is strict, and a file can bring nothing but arrays: any other object in it is refused by name and never built.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded

from worldloom_rl.config import Json
from worldloom_rl.keys import as_tuple
from worldloom_rl.models.dreamerv3.config import DreamerV3Config
from worldloom_rl.models.dreamerv3.import_settings import ImportSettings as ImportSettings
from worldloom_rl.models.dreamerv3.model import DreamerV3
from worldloom_rl.nn.heads import ActionHead
from worldloom_rl.specs.actions import ActionSpace


def import_checkpoint(source: str | Path, output: str | Path, settings: ImportSettings | None = None) -> DreamerV3:
    """The model of an official checkpoint, also written to the directory `output` as `save_pretrained` does.

    Args:
        source: the log directory of a run, which holds ckpt/ and config.yaml, or an agent.pkl.
    Raises FileNotFoundError, or ValueError naming what is wrong; nothing is written then.
    """
    agent, config_file = _locate(Path(source))
    numbers = {} if config_file is None else read_config(config_file)
    model = model_from_arrays(read_checkpoint(agent), settings, numbers)
    model.save_pretrained(output)
    return model


def _locate(source: Path) -> tuple[Path, Path | None]:
    """agent.pkl and, if there is one, the run's config.yaml."""
    if source.is_dir():
        folder = next((place for place in (source / "ckpt", source / "ckpt" / "agent", source) if _latest(place)), None)
        if folder is not None:
            source_folder = folder / _latest(folder)
            if not (source_folder / "done").is_file():
                raise ValueError(f"The checkpoint {source_folder} is incomplete: it has no file 'done'.")
        else:
            source_folder = source
        agent = source_folder / "agent.pkl"
        if not agent.is_file():
            raise FileNotFoundError(f"{source} holds no DreamerV3 checkpoint: there is no {agent}.")
    else:
        agent = source
        if not agent.is_file():
            raise FileNotFoundError(f"There is no checkpoint {agent}.")
    config = next((folder / "config.yaml" for folder in agent.parents[:4] if (folder / "config.yaml").is_file()), None)
    return agent, config


def _latest(folder: Path) -> str:
    """The newest checkpoint's name in a folder of them; empty if it is no such folder."""
    file = folder / "latest"
    name = file.read_text().strip() if file.is_file() else ""
    if name and Path(name).name != name:
        raise ValueError(f"{file} should hold the name of a folder beside it, got {name!r}.")
    return name


# ------------------------------------------------------------------ the pickle


def _empty_array(kind: type, shape: tuple[int, ...], code: object) -> np.ndarray[Any, Any]:
    """What numpy's pickles begin an array with; the state that follows gives it shape, type and numbers."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"an array begins as an empty one, not as {kind!r} of shape {shape!r}")
    return np.empty(0, np.uint8)


_ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds the object '{module}.{name}'")
        return _ALLOWED[module, name]


def read_checkpoint(agent: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an agent.pkl by their official names.

    Raises ValueError if the file is something else, or holds any object but arrays of 32-bit numbers.
    """
    path = Path(agent)
    with path.open("rb") as stream:
        try:
            content = _ArrayUnpickler(stream).load()
        except Exception as error:  # a spoilt pickle can raise anything
            raise ValueError(
                f"{path} was not loaded: {error}. An official DreamerV3 checkpoint is a pickle of numpy arrays only; "
                "do not load this file with other tools."
            ) from error
    parameters = content.get("params") if isinstance(content, dict) else None
    if not isinstance(parameters, dict) or set(content) != {"params", "counters"}:
        raise ValueError(f"{path} should hold a dict of 'params' and 'counters', as the official agent saves.")
    for name, array in parameters.items():
        if not isinstance(name, str) or type(array) is not np.ndarray or array.dtype not in (np.float32, np.int32):
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"{path} holds {name!r} of type {kind}; an array of 32-bit numbers is expected.")
    return parameters


# ------------------------------------------------------------------ the configuration

_NUMBERS = {  # ours: where config.yaml has it
    "groups": "agent.dyn.rssm.stoch",
    "unimix": "agent.dyn.rssm.unimix",
    "free_nats": "agent.dyn.rssm.free_nats",
    "min_std": "agent.policy.minstd",
    "max_std": "agent.policy.maxstd",
    "dynamics_coef": "agent.loss_scales.dyn",
    "representation_coef": "agent.loss_scales.rep",
    "reconstruction_coef": "agent.loss_scales.rec",
    "reward_coef": "agent.loss_scales.rew",
    "continue_coef": "agent.loss_scales.con",
    "actor_coef": "agent.loss_scales.policy",
    "critic_coef": "agent.loss_scales.value",
    "replay_value_coef": "agent.loss_scales.repval",
    "discount_horizon": "agent.horizon",
    "discount_in_continue": "agent.contdisc",
    "horizon": "agent.imag_length",
    "imagination_starts": "agent.imag_last",
    "lambda_": "agent.imag_loss.lam",
    "entropy_coef": "agent.imag_loss.actent",
    "slow_coef": "agent.imag_loss.slowreg",
    "slow_rate": "agent.slowvalue.rate",
    "return_rate": "agent.retnorm.rate",
    "return_limit": "agent.retnorm.limit",
    "learning_rate": "agent.opt.lr",
    "warmup": "agent.opt.warmup",
    "agc": "agent.opt.agc",
    "momentum": "agent.opt.beta1",
    "rms_decay": "agent.opt.beta2",
    "eps": "agent.opt.eps",
    "batch_size": "batch_size",
    "batch_length": "batch_length",
    "replay_context": "replay_context",
}
_NETWORKS = ("dyn.rssm", "enc.simple", "dec.simple", "rewhead", "conhead", "policy", "value")
_FIXED: dict[str, Json] = {  # what our model does in one way only
    **{f"agent.{network}.act": "silu" for network in _NETWORKS},
    **{f"agent.{network}.norm": "rms" for network in _NETWORKS},
    "agent.dyn.rssm.absolute": False,
    "agent.dyn.rssm.dynlayers": 1,
    "agent.enc.simple.symlog": True,
    "agent.enc.simple.outer": False,
    "agent.enc.simple.strided": False,
    "agent.enc.simple.kernel": 5,
    "agent.enc.simple.mults": [2, 3, 4, 4],
    "agent.dec.simple.outer": False,
    "agent.dec.simple.strided": False,
    "agent.dec.simple.kernel": 5,
    "agent.dec.simple.mults": [2, 3, 4, 4],
    "agent.dec.simple.bspace": 8,
    "agent.rewhead.output": "symexp_twohot",
    "agent.value.output": "symexp_twohot",
    "agent.policy_dist_cont": "bounded_normal",
    "agent.policy_dist_disc": "categorical",
    "agent.retnorm.impl": "perc",
    "agent.retnorm.debias": False,
    "agent.valnorm.impl": "none",
    "agent.advnorm.impl": "none",
    "agent.conhead.output": "binary",
    "agent.slowvalue.every": 1,
    "agent.imag_loss.slowtar": False,
    "agent.repl_loss.slowtar": False,
    "agent.repval_loss": True,
    "agent.repval_grad": True,
    "agent.reward_grad": True,
    "agent.ac_grads": False,
    "agent.opt.momentum": True,
    "agent.opt.schedule": "const",
    "agent.opt.wd": 0.0,
}


def read_config(file: Path) -> dict[str, Json]:
    """The numbers that a run's config.yaml tells, by our names. Raises ValueError for a setting that we don't have."""
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not the configuration of a DreamerV3 run: {error}") from error

    def entry(path: str) -> Json:
        value = content
        for name in path.split("."):
            if not isinstance(value, dict) or name not in value:
                raise ValueError(f"{file} lacks {path!r}, which every configuration of a DreamerV3 run has.")
            value = value[name]
        return value

    for path, only in _FIXED.items():
        if entry(path) != only:
            raise ValueError(f"{file} has {path} = {entry(path)!r}; this library knows {only!r} only.")
    for name in ("lam", "slowreg"):  # one number of ours serves both losses of the critic
        imagined, replayed = entry(f"agent.imag_loss.{name}"), entry(f"agent.repl_loss.{name}")
        if imagined != replayed:
            raise ValueError(
                f"{file} has {name} = {imagined!r} in imag_loss and {replayed!r} in repl_loss; this library has one "
                "number for both."
            )
    numbers = {ours: entry(path) for ours, path in _NUMBERS.items()}
    ratio, size, length = entry("run.train_ratio"), numbers["batch_size"], numbers["batch_length"]
    if not all(isinstance(value, int | float) and value > 0 for value in (ratio, size, length)):
        raise ValueError(f"{file} should have positive numbers for run.train_ratio, batch_size and batch_length.")
    numbers["updates_per_step"] = ratio / (size * length)
    return {name: float(value) if isinstance(value, str) else value for name, value in numbers.items()}


# ------------------------------------------------------------------ the arrays


def model_from_arrays(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    settings: ImportSettings | None = None,
    numbers: Mapping[str, Json] | None = None,
) -> DreamerV3:
    """The model with the weights of official arrays; `numbers` of the configuration count more than the settings.

    Raises ValueError naming every missing, extra or mis-shaped array.
    """
    settings = settings or ImportSettings()
    numbers = {"groups": settings.groups, **(numbers or {})}
    config, observation_spec, action_spec = _describe(_Sizes(arrays), settings, numbers)
    with torch.device("meta"):
        meta = DreamerV3(config, observation_spec, action_spec)
    ours = meta.state_dict()
    expected = {part.official: tuple(part.save(ours[part.ours]).shape) for part in counterparts(meta)}
    learned = {name: shape for name, shape in expected.items() if not name.startswith(("slowval/", "retnorm/"))}
    for number in (1, 2):
        expected |= {f"opt/state/{number}/1/{name}": shape for name, shape in learned.items()}
    counters = ("slowval_count/value", "opt/step/value", "opt/state/1/0", "opt/state/2/0", "opt/state/3/count")
    expected |= dict.fromkeys(counters, ())

    wrong = [f"lacks {name!r} of shape {shape}" for name, shape in expected.items() if name not in arrays]
    for name, array in arrays.items():
        kind = np.int32 if name in counters else np.float32
        if name not in expected:
            wrong.append(f"has the extra array {name!r} of shape {array.shape}")
        elif array.shape != expected[name]:
            wrong.append(f"has {name!r} of shape {array.shape} where {expected[name]} is needed")
        elif array.dtype != kind:
            wrong.append(f"has {name!r} of type {array.dtype} where {np.dtype(kind)} is needed")
    if wrong:
        raise ValueError(f"This is no official DreamerV3 checkpoint: it {'; it '.join(wrong)}.")
    model = DreamerV3(config, observation_spec, action_spec)
    load_official(
        model, {part.official: torch.from_numpy(arrays[part.official].copy()) for part in counterparts(model)}
    )
    return model


class _Sizes:
    """What the arrays say of sizes. A size is the one on which most arrays agree, so that a wrong one stands out."""

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.arrays = arrays

    def axis(self, name: str, axis: int = 0) -> list[int]:
        """The size of that axis, as a list of one; empty if there is no such array or axis."""
        array = self.arrays.get(name)
        return [array.shape[axis]] if array is not None and array.ndim > axis else []

    def most(self, size: str, votes: Iterable[int]) -> int:
        """The commonest vote."""
        counted = Counter(votes).most_common(1)
        if not counted:
            raise ValueError(f"The checkpoint has none of the arrays that tell its {size}; is it one of DreamerV3?")
        return counted[0][0]

    def layers(self, prefix: str, default: int) -> int:
        """How many layers prefix0, prefix1, … there are; the default if none."""
        found = [re.match(rf"{re.escape(prefix)}(\d+)/kernel$", name) for name in self.arrays]
        return max((int(match[1]) + 1 for match in found if match), default=default)

    def heads(self, prefix: str) -> dict[str, set[str]]:
        """The kinds of output under prefix/<key>/<kind>, by key."""
        heads: dict[str, set[str]] = {}
        for name in self.arrays:
            match = re.fullmatch(rf"{prefix}/(.+)/(pred|logits|mean|stddev)/(?:kernel|bias)", name)
            if match:
                heads.setdefault(match[1], set()).add(match[2])
        return dict(sorted(heads.items()))


def _describe(
    sizes: _Sizes, settings: ImportSettings, numbers: Mapping[str, Json]
) -> tuple[DreamerV3Config, Composite, Composite]:
    """Configuration and specs."""
    axis, most, layers = sizes.axis, sizes.most, sizes.layers
    default = DreamerV3Config()
    deterministic = [*axis("dyn/dynhid0/bias"), *axis("dyn/dynhid0norm/scale"), *axis("dyn/dynin0/kernel")]
    hidden = [f"dyn/{layer}/bias" for layer in ("dynin0", "dynin1", "dynin2", "obs0", "prior0")]
    units = [f"{head}/mlp/linear0/bias" for head in ("rew", "con", "val", "slowval", "pol")]
    parameters = most("stochastic state", axis("dyn/obslogit/bias") + axis("dyn/priorlogit/bias"))
    groups = numbers["groups"]
    if not isinstance(groups, int) or groups < 1 or parameters % groups:
        raise ValueError(
            f"The stochastic state has {parameters} numbers, which {groups!r} groups do not divide; say with groups "
            "how many categoricals there are."
        )
    found: dict[str, Json] = {
        "deterministic": most("deterministic state", deterministic),
        "hidden": most("hidden width", [size for name in hidden for size in axis(name)]),
        "classes": parameters // groups,
        "blocks": most("blocks", axis("dyn/dyngru/kernel") + axis("dyn/dynhid0/kernel")),
        "units": most("units", [size for name in units for size in axis(name)]),
        "depth": most("depth", [n // 2 for n in axis("enc/cnn0/bias") + axis("dec/conv0/bias")] or [default.depth]),
        "num_bins": most("bins", [n for head in ("rew", "val", "slowval") for n in axis(f"{head}/head/logits/bias")]),
        "encoder_layers": layers("enc/mlp", default.encoder_layers),
        "decoder_layers": layers("dec/mlp/linear", default.decoder_layers),
        "prior_layers": layers("dyn/prior", 0),
        "posterior_layers": layers("dyn/obs", 0),
        "reward_layers": layers("rew/mlp/linear", 0),
        "continue_layers": layers("con/mlp/linear", 0),
        "actor_layers": layers("pol/mlp/linear", 0),
        "critic_layers": layers("val/mlp/linear", 0),
    }
    config = DreamerV3Config(**{**numbers, **found})

    shapes = dict(_shape(text) for text in settings.shapes)
    observations: dict[str, TensorSpec] = {}
    for key, kinds in sizes.heads("dec/vec").items():
        kind = "logits" if "logits" in kinds else "pred"
        width = most(f"observation {key!r}", axis(f"dec/vec/{key}/{kind}/bias"))
        observations[key] = _leaf(key, width, shapes.pop(key, None), categories=kind == "logits")
    images = {key: shapes.pop(key) for key in list(shapes) if len(shapes[key]) == 3}
    channels = axis("enc/cnn0/kernel", 2)
    if channels and not images:
        coarse = most("image size", axis("dec/sp2/bias") + axis("dec/sp0/bias")) // (4 * config.depth)
        side = 16 * math.isqrt(coarse)
        if side**2 != 256 * coarse:
            raise ValueError(
                f"The images are not square; give their shape, such as shapes={settings.image_key}=3x64x96."
            )
        images = {settings.image_key: (channels[0], side, side)}
    observations |= {key: Bounded(0, 255, shape=shape, dtype=torch.uint8) for key, shape in images.items()}

    actions: dict[str, TensorSpec] = {}
    for key, kinds in sizes.heads("pol/head").items():
        kind = "logits" if "logits" in kinds else "mean"
        width = most(f"action {key!r}", axis(f"pol/head/{key}/{kind}/bias"))
        shape = shapes.pop(key, None)
        if kind == "logits":
            actions[key] = _leaf(key, width, shape, categories=True)
        else:
            actions[key] = Bounded(-1.0, 1.0, shape=(width,), dtype=torch.float32)
    if shapes:
        raise ValueError(f"shapes names {sorted(shapes)}, but the checkpoint has {sorted([*observations, *actions])}.")
    return config, Composite(dict(sorted(observations.items()))), Composite(actions)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    key, _, sides = text.partition("=")
    if not key or not re.fullmatch(r"\d+(x\d+)*", sides):
        raise ValueError(f'A shape is written "key=2x3", got {text!r}.')
    return key, tuple(int(side) for side in sides.split("x"))


def _leaf(key: str, width: int, shape: tuple[int, ...] | None, *, categories: bool) -> TensorSpec:
    """The spec of a leaf for which the network gives that many numbers."""
    count = math.prod(shape or ())
    if shape is not None and (width % count if categories else width != count):
        raise ValueError(f"{key!r} has {width} outputs, which do not fit the shape {shape}.")
    if not categories:
        return Unbounded(shape or (width,))
    classes = width // count
    if shape is None:
        return Categorical(classes, shape=(), dtype=torch.int64)
    if len(shape) == 1:
        return MultiCategorical([classes] * count, dtype=torch.int64)
    return Categorical(classes, shape=shape, dtype=torch.int64)


# ------------------------------------------------------------------ their names and ours


class Counterpart(NamedTuple):
    """One of our tensors, its official name, and what turns an official array into ours and back."""

    ours: str
    official: str
    load: Callable[[Tensor], Tensor]
    save: Callable[[Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


_LAYOUTS: dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    nn.Linear: (lambda kernel: kernel.T, lambda weight: weight.T),
    nn.Conv2d: (lambda kernel: kernel.permute(3, 2, 0, 1), lambda weight: weight.permute(2, 3, 1, 0)),
}


_ACTION_LAYER = "rssm.core.from_action"


def _action_layout(space: ActionSpace) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Of the weight that reads actions: official keys stand side by side in alphabetical order, ours in the spec's."""
    parts = sorted(space.segments, key=lambda part: official_key(part.key))
    ours = torch.tensor([i for part in parts for i in range(part.start, part.stop)])
    theirs = ours.argsort()
    return lambda kernel: kernel.T[:, theirs], lambda weight: weight[:, ours].T


def counterparts(model: DreamerV3) -> list[Counterpart]:
    """Every tensor of the model's state dict with its official name, apart from optimiser and counters."""
    found: list[Counterpart] = []
    modules = dict(model.named_modules())
    for prefix, official, norm in _layers(model):
        layer = modules[prefix]
        kind = next((kind for kind in _LAYOUTS if isinstance(layer, kind)), None)
        load, save = (_same, _same) if kind is None else _LAYOUTS[kind]
        if prefix == _ACTION_LAYER:
            load, save = _action_layout(model.action_space)
        if official:
            found.append(Counterpart(f"{prefix}.weight", f"{official}/kernel", load, save))
            found.append(Counterpart(f"{prefix}.bias", f"{official}/bias", _same, _same))
        if norm:
            name = f"{prefix}.norm.weight" if official else f"{prefix}.weight"
            found.append(Counterpart(name, f"{norm}/scale", _same, _same))
    for ours, theirs in (("low", "lo"), ("high", "hi")):
        found.append(Counterpart(f"behavior.return_range.{ours}", f"retnorm/{theirs}/value", _same, _same))
    return found


def official_key(key: NestedKey) -> str:
    """What the official code would call an observation or action key."""
    return "_".join(as_tuple(key))


def _layers(model: DreamerV3) -> Iterator[tuple[str, str, str]]:
    """Our layer, its official name, and that of its norm; an empty string where there is none."""
    for i, _ in enumerate(model.encoder.vector or ()):
        yield f"encoder.vector.{i}", f"enc/mlp{i}", f"enc/mlp{i}norm"
    for i, _ in enumerate(model.encoder.image or ()):
        yield f"encoder.image.{i}", f"enc/cnn{i}", f"enc/cnn{i}norm"

    for i, name in enumerate(("from_deterministic", "from_stochastic", "from_action")):
        yield f"rssm.core.{name}", f"dyn/dynin{i}", f"dyn/dynin{i}norm"
    yield "rssm.core.mix", "dyn/dynhid0", ""
    yield "rssm.core.mix_norm", "", "dyn/dynhid0norm"
    yield "rssm.core.gates", "dyn/dyngru", ""
    for name, official in (("posterior", "obs"), ("prior", "prior")):
        last = len(getattr(model.rssm, name)) - 1
        for i in range(last):
            yield f"rssm.{name}.{i}", f"dyn/{official}{i}", f"dyn/{official}{i}norm"
        yield f"rssm.{name}.{last}", f"dyn/{official}logit", ""

    decoder = model.decoder
    for i, _ in enumerate(decoder.trunk or ()):
        yield f"decoder.trunk.{i}", f"dec/mlp/linear{i}", f"dec/mlp/norm{i}"
    for i, leaf in enumerate(decoder.leaves):
        yield f"decoder.outputs.{i}", f"dec/vec/{official_key(leaf.key)}/{'logits' if leaf.classes else 'pred'}", ""
    if decoder.image is not None:
        yield "decoder.image.from_deterministic", "dec/sp0", ""
        yield "decoder.image.from_stochastic.0", "dec/sp1", "dec/sp1norm"
        yield "decoder.image.from_stochastic.1", "dec/sp2", ""
        yield "decoder.image.norm", "", "dec/spnorm"
        stages = len(decoder.image.stages)
        for i in range(stages):
            yield f"decoder.image.stages.{i}", f"dec/conv{stages - 1 - i}", f"dec/conv{stages - 1 - i}norm"
        yield "decoder.image.output", "dec/imgout", ""

    heads = (
        ("reward_head.network", "rew", "logits", model.reward_head.network),
        ("continue_head", "con", "logit", model.continue_head),
        ("behavior.critic.network", "val", "logits", model.behavior.critic.network),
        ("behavior.slow_critic.network", "slowval", "logits", model.behavior.slow_critic.network),
    )
    for prefix, official, output, network in heads:
        last = len(network) - 1
        for i in range(last):
            yield f"{prefix}.{i}", f"{official}/mlp/linear{i}", f"{official}/mlp/norm{i}"
        yield f"{prefix}.{last}", f"{official}/head/{output}", ""

    actor = model.behavior.actor
    for i, _ in enumerate(actor.trunk):
        yield f"behavior.actor.trunk.{i}", f"pol/mlp/linear{i}", f"pol/mlp/norm{i}"
    for i, (part, head) in enumerate(zip(model.action_space.segments, actor.heads, strict=True)):
        assert isinstance(head, ActionHead)
        for name, _ in head.named_children():
            yield f"behavior.actor.heads.{i}.{name}", f"pol/head/{official_key(part.key)}/{name}", ""


def load_official(model: DreamerV3, arrays: Mapping[str, Tensor]) -> None:
    """Fill the model with official arrays by name; names beyond the model's are ignored."""
    found = {part.ours: part.load(arrays[part.official]).to(torch.float32) for part in counterparts(model)}
    model.load_state_dict(found, strict=True)
