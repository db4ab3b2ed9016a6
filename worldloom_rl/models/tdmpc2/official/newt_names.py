"""Our tensors' names in checkpoints of newt: TD-MPC2's, but each member of the Q ensembles has tensors of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from worldloom_rl.models.tdmpc2.official.names import official_name

TASKS, MASKS = "_task_emb.weight", "_action_masks"

_STACKED = {"_Qs.params": "_Qs.online._Qs", "_target_Qs_params": "_Qs.target._Qs"}  # TD-MPC2's: newt's
_NONE_OF_NEWT = ("_termination.", "_encoder.rgb.")
_OF_A_MEMBER = re.compile(r"_Qs\.(online|target)\._Qs\.(\d{1,3})\.(.+)")


def newt_names(name: str, members: int) -> list[str]:
    """The names in the file of what becomes one of our tensors: one, or one a member, in their order."""
    official = official_name(name)
    for stacked, theirs in _STACKED.items():
        if official.startswith(f"{stacked}."):
            return [f"{theirs}.{member}{official[len(stacked) :]}" for member in range(members)]
    return [official]


def is_of_a_member(name: str) -> bool:
    """Whether the tensor belongs to one member of a Q ensemble."""
    return _OF_A_MEMBER.fullmatch(name) is not None


def sizes_as_tdmpc2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by TD-MPC2's names; those of Q members as one without numbers, of the shape that most have.

    What newt has no counterpart of, ends and convolutions, is left out.
    """
    shapes: dict[str, list[torch.Size]] = {}
    members = 0
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _OF_A_MEMBER.fullmatch(name)
        if match is None:
            if not name.startswith(_NONE_OF_NEWT):
                found[name] = tensor
            continue
        stacked = next(ours for ours, theirs in _STACKED.items() if name.startswith(theirs))
        shapes.setdefault(f"{stacked}.{match[3]}", []).append(tensor.shape)
        members = max(members, int(match[2]) + 1)
    for name, each in shapes.items():
        found[name] = torch.empty((members, *max(each, key=each.count)), device="meta")
    return found
