"""A prediction depends on each action, keeps the context and agrees with `decode`."""

from __future__ import annotations

import torch

from worldloom_rl.keys import as_tuple
from worldloom_rl.testing.comparing import require
from worldloom_rl.testing.subject import Data, run
from worldloom_rl.world_model import WorldModel


def check_prediction(subject: WorldModel, data: Data) -> None:
    """A prediction has its shapes, depends on each action, keeps the context and agrees with `decode`."""
    names, batch = subject.key_map, (16,)
    observations = data.observations(batch)
    start = run(subject, subject.encode, observations).update(data.actions(batch))
    given = start.select(*subject.latent_keys, *subject.action_keys)
    arrived = run(subject, subject.predict, given)
    for key in (names.reward, names.continuation):
        shape = tuple(arrived.get(key).shape)
        require(shape == (*batch, 1), subject, f"predict writes {key!r} of shape {shape}, expected {(*batch, 1)}.")
    odds = arrived.get(names.continuation)
    inside = bool(((odds >= 0) & (odds <= 1)).all())
    require(
        inside,
        subject,
        f"{names.continuation!r} is a probability, but predict writes {odds.min():.3g} … {odds.max():.3g}.",
    )

    for key in subject.action_keys:
        other = given.clone().set(key, data.actions(batch).get(key))
        changed = run(subject, subject.predict, other)
        # Of the features, not of any leaf: an action that the latent only remembers has not changed what is predicted.
        depends = not torch.equal(subject.features(arrived), subject.features(changed))
        depends |= not torch.equal(arrived.get(names.reward), changed.get(names.reward))
        claim = f"predict ignores the action {key!r}: neither the latent's features nor the reward depend on it."
        require(depends, subject, claim)

    moved = run(subject, subject.predict, given.clone().update(data.actions(batch)))
    for leaf, value in subject.read_latent(start).items():
        sources = [source for source in observations.values(True, True) if source.shape == value.shape]
        if any(torch.equal(source, value) for source in sources if source.dtype == value.dtype):
            # An observed state that actions move, such as a pose, is no context.
            moves = not torch.equal(arrived.get(names.leaf(leaf)), moved.get(names.leaf(leaf)))
            kept = moves or torch.equal(arrived.get(names.leaf(leaf)), value)
            require(
                kept, subject, f"predict changes the context leaf {leaf!r}, which encode copies from the observation."
            )

    decoded = run(subject, subject.decode, arrived.select(*subject.latent_keys))
    for key in subject.decode.out_keys:
        if as_tuple(key) in (as_tuple(names.reward), as_tuple(names.continuation)):
            same = torch.allclose(decoded.get(key), arrived.get(key), rtol=1e-5, atol=1e-6)
            require(same, subject, f"decode and predict disagree on {key!r} of the same latent.")
