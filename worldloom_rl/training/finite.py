"""Stops a run whose numbers went wrong, before they reach the weights, and says whose numbers these are.

What environments and policies give is looked at where it enters (`envs.agent_steps`, `data.arrivals`), before replay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from worldloom_rl import ranks
from worldloom_rl.keys import LATENT, as_tuple

GRADIENT = "grad_norm"  # how the names of gradients' norms end, among losses
_OF_THE_MODEL = "it is the model that went wrong: --overrides learning_rate=… lowers its rate in a new run."


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """[] the norm of all gradients together, which is not finite unless each of them is."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def check_finite(losses: Mapping[str, Tensor], batch: TensorDictBase, model: nn.Module) -> None:
    """Raise FloatingPointError naming the first loss, or gradient, that is not finite, and what made it so.

    All processes call it, and what is wrong in one is raised in each.

    Args:
        losses: and norms of gradients, whose names end on "grad_norm".
        batch: learned from; model: that learns.
    """
    finite = bool(torch.stack([loss.isfinite().all() for loss in losses.values()]).all())  # the one wait for the device
    if not ranks.any_of(not finite):
        return
    # Of several processes all follow when one goes wrong: the one whose rows are at fault is told first.
    faults = [fault for fault in ranks.gathered(_fault(losses, batch, model)) if fault is not None]
    raise FloatingPointError(f"{min(faults)[-1]} No update was made from it.")


def _fault(losses: Mapping[str, Tensor], batch: TensorDictBase, model: nn.Module) -> tuple[bool, bool, str] | None:
    """Whether the rows are right, whether the losses are, and the sentence; None where nothing is wrong."""
    wrong = [name for name, loss in losses.items() if not bool(loss.isfinite().all())]
    if not wrong:
        return None
    what = f"{wrong[0]!r} is not finite ({len(wrong)} of {len(losses)} are not)"
    losses_are_right = wrong[0].endswith(GRADIENT)
    if losses_are_right:
        named = _wrong({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        what = f"{f'The gradient of {named[0]!r}' if named else repr(wrong[0])} is not finite, though all losses are"
    where = f"In process {ranks.rank()} of {ranks.count()}: " if ranks.count() > 1 else ""
    rows_are_right, cause = _cause(batch, model)
    return rows_are_right, losses_are_right, f"{where}{what}; {cause}"


def _cause(batch: TensorDictBase, model: nn.Module) -> tuple[bool, str]:
    """Whether it is not the rows', and whose numbers are at fault, and what to do about it, to end a sentence."""
    # Without the latents, which the model wrote. A family may take −∞ for a missing entry: that comes last.
    given = {key: value for key, value in batch.items(True, True) if as_tuple(key)[0] != LATENT}
    weights = _wrong({**dict(model.named_parameters()), **model.state_dict()})
    if wrong := _wrong(given, missing=True):
        return False, f"the batch holds others under {wrong}: mend the environment or the data."
    if weights:
        return True, f"nor are the weights {weights[0]!r}: {_OF_THE_MODEL}"
    if wrong := _wrong(given):
        return False, f"the batch holds −∞ under {wrong}: mend the environment or the data."
    return True, f"all observations, actions and rewards of the batch are finite: {_OF_THE_MODEL}"


def _wrong(tensors: Mapping[NestedKey, Tensor], *, missing: bool = False) -> list[NestedKey]:
    """The names of those that hold NaN or infinity; with `missing`, −∞ does not count."""
    real = {name: value for name, value in tensors.items() if value.is_floating_point()}
    return [
        name
        for name, value in real.items()
        if not bool((value.isfinite() | (value.isneginf() if missing else False)).all())
    ]


def not_finite(*losses: Tensor) -> Tensor:
    """[] 1 if one of them is not, else 0: for the device to act upon, and nobody to wait for."""
    return (~torch.stack(losses).isfinite().all()).float()


def check_weights(model: nn.Module) -> None:
    """Raise FloatingPointError naming the first weights or running statistics that are not finite."""
    tensors = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    if bool(torch.stack([value.isfinite().all() for value in tensors.values()]).all()):  # the one wait for the device
        return
    wrong = _wrong(tensors)
    raise FloatingPointError(
        f"{wrong[0]!r} is not finite ({len(wrong)} of {len(tensors)} tensors of the model are not): "
        f"{_OF_THE_MODEL} No checkpoint was made of it."
    )


def check_read(metrics: Mapping[str, float]) -> None:
    """Raise FloatingPointError naming the first loss that is not finite, of metrics that were read for people anyway.

    A recipe whose `update` does not look at its losses is stopped by this at last.
    """
    wrong = [name for name, value in metrics.items() if name.startswith("loss") and not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(f"{wrong[0]!r} is not finite, and the update was made: {_OF_THE_MODEL}")
