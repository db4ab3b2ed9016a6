"""Our tensors' names in official TD-MPC2 checkpoints, of current files and of the first release."""

from __future__ import annotations

import re
from collections.abc import Set

ENSEMBLES = ("_Qs.params", "_detach_Qs_params", "_target_Qs_params")  # the second duplicates the first
AFFINE = ("weight", "bias")
NORMED = ("weight", "bias", "ln.weight", "ln.bias")  # of a layer, in the order in which the first release numbers them

_OFFICIAL = (  # ours: theirs
    (r"encoder\.state", "_encoder.state"),
    (r"dynamics", "_dynamics"),
    (r"reward_head", "_reward"),
    (r"termination_head", "_termination"),
    (r"task_embedding", "_task_emb"),
    (r"behavior\.policy", "_pi"),
    (r"behavior\.q_ensemble\.layers", "_Qs.params"),
    (r"behavior\.target_q_ensemble\.layers", "_target_Qs_params"),
)


def has_official_layers(names: Set[str]) -> bool:
    """Whether these are names of a state dict of TD-MPC2 or of newt, in whatever release."""
    return not names.isdisjoint({"_dynamics.0.weight", "_reward.0.weight", "_pi.0.weight"})


def official_name(name: str) -> str:
    """The current official name of one of our tensors."""
    pixels = re.match(r"encoder\.pixels\.0\.(\d+)(?=\.)", name)
    if pixels:
        return f"_encoder.rgb.{int(pixels[1]) + 2}{name[pixels.end() :]}"  # 0 and 1 shift and scale
    for pattern, official in _OFFICIAL:
        found = re.match(pattern + r"(?=\.)", name)
        if found:
            return official + re.sub(r"\.norm[._]", ".ln.", name[found.end() :])
    raise KeyError(f"The official code has no counterpart of {name!r}.")


def current_name(name: str) -> str:
    """The current name of a first-release tensor: Q tensors were numbered 4 · layer + place in the layer."""
    found = re.fullmatch(r"_(target_)?Qs\.params\.(\d+)", name)
    if not found:
        return name
    layer, place = divmod(int(found[2]), len(NORMED))
    return f"{'_target_Qs_params' if found[1] else '_Qs.params'}.{layer}.{NORMED[place]}"


def first_release_name(name: str) -> str:
    """The inverse of `current_name`."""
    found = re.fullmatch(r"(_Qs\.params|_target_Qs_params)\.(\d+)\.(.+)", name)
    if not found or found[3] not in NORMED:
        return name
    prefix = "_Qs.params" if found[1] == "_Qs.params" else "_target_Qs.params"
    return f"{prefix}.{len(NORMED) * int(found[2]) + NORMED.index(found[3])}"
