"""Our tensors and official DreamerV3 arrays: each by both names, with what turns one into the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from tensordict import NestedKey
from torch import Tensor, nn

from worldloom_rl.keys import as_tuple
from worldloom_rl.models.dreamerv3.model import DreamerV3
from worldloom_rl.nn.heads import ActionHead
from worldloom_rl.specs.actions import ActionSpace


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
