"""Every key of the contract can have another name."""

from __future__ import annotations

import torch
from tensordict import NestedKey
from torchrl.envs.utils import check_env_specs

from worldloom_rl.keys import KeyMap, as_tuple
from worldloom_rl.testing.comparing import leaves_of, require, require_equal, require_latent
from worldloom_rl.testing.subject import STEPS, Data, ProbePolicy, arrivals, rebuild, run, seeded, verbs_of
from worldloom_rl.world_model import WorldModel
from worldloom_rl.world_model.env import ImaginationEnv

_RENAMED = {
    "latent": ("renamed", "state"),
    "previous_action": ("renamed", "action_before"),
    "reward": ("renamed", "gain"),
    "continuation": ("renamed", "odds"),
    "is_init": ("renamed", "first"),
    "terminated": ("renamed", "ended"),
}


def check_key_map(subject: WorldModel, data: Data) -> None:
    """Verbs, loss and imagination do the same under other names of all keys."""
    renamed = rebuild(subject, _RENAMED)
    inputs = arrivals(subject, data).update(data.actions((4, STEPS)))
    moved = inputs.copy()
    for key, other in _renaming(subject, renamed).items():
        if key in leaves_of(moved):
            moved.rename_key_(key, other)
    # A leaf that stands under its old name was written by a literal key.
    back = {key: ("not renamed", *key) for key in _renaming(subject, renamed)}
    back |= {other: key for key, other in _renaming(subject, renamed).items()}
    for (name, verb), other_verb in zip(verbs_of(subject).items(), verbs_of(renamed).values(), strict=True):
        expected = leaves_of(run(subject, verb, inputs.select(*verb.in_keys)))
        found = leaves_of(run(renamed, other_verb, moved.select(*other_verb.in_keys)))
        under_old = {("next", *back[key[1:]]) if key[0] == "next" else back.get(key, key): key for key in found}
        claim = f"{name} with renamed keys {_RENAMED} writes {sorted(found)}"
        require(set(under_old) == set(expected), subject, f"{claim}, which is not the renamed {sorted(expected)}.")
        for key, value in expected.items():
            require(torch.equal(found[under_old[key]], value), subject, f"{claim}, but {key} has another value.")
    expected_terms, _ = seeded(subject).compute_loss(inputs)
    found_terms, posterior = seeded(renamed).compute_loss(moved)
    require_latent(renamed, renamed.read_latent(posterior), (4, STEPS), "compute_loss with renamed keys")
    for name, term in expected_terms.items():
        same = torch.allclose(found_terms[name], term, rtol=1e-5, atol=1e-6)
        require(same, subject, f"compute_loss with renamed keys gives another {name!r}.")
    start = data.latents(renamed, (3,))
    policy = ProbePolicy(renamed)
    with torch.no_grad():
        imagined = seeded(renamed).imagine(start, policy, horizon=2)
        env = ImaginationEnv(seeded(renamed))
        rollout = env.rollout(2, policy, tensordict=start.clone(), set_state=True)
    claim = "with renamed keys imagine differs from the rollout of ImaginationEnv"
    require_equal(subject, imagined, rollout, claim, tolerance=0.0)
    check_env_specs(ImaginationEnv(renamed))


def _renaming(subject: WorldModel, renamed: WorldModel) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Each leaf key of the contract and what it is called in the renamed model."""
    pairs: list[tuple[NestedKey, NestedKey]] = [
        *zip(subject.latent_keys, renamed.latent_keys, strict=True),
        *zip(subject.previous_action_keys, renamed.previous_action_keys, strict=True),
    ]
    for name in KeyMap().to_json():
        if name not in ("latent", "previous_action"):
            pairs.append((getattr(subject.key_map, name), getattr(renamed.key_map, name)))
    return {as_tuple(key): as_tuple(other) for key, other in pairs}
