"""Each verb reads and writes its keys, in any batch shape, with sound numbers and the model's noise alone."""

from __future__ import annotations

import torch

from worldloom_rl.keys import as_tuple
from worldloom_rl.noise import ModeNoise
from worldloom_rl.testing.comparing import (
    leaves_of,
    require,
    require_equal,
    require_key_error,
    require_latent,
    untouched,
)
from worldloom_rl.testing.subject import BATCHES, Data, run, verbs_of
from worldloom_rl.world_model import WorldModel


def check_keys(subject: WorldModel, data: Data) -> None:
    """Verbs read their in_keys, write their out_keys and name the key that is missing."""
    inputs = data.inputs(subject, (4,))
    for name, verb in verbs_of(subject).items():
        reads, writes = {as_tuple(key) for key in verb.in_keys}, {as_tuple(key) for key in verb.out_keys}
        given = inputs.select(*verb.in_keys)
        with untouched(subject, given, name):
            out = verb(given.copy())
        found = set(leaves_of(out))
        require(writes <= found, subject, f"{name} does not write its out_keys {sorted(writes - found)}.")
        extra = found - writes - reads
        require(not extra, subject, f"{name} writes {sorted(extra)}, which are not among its out_keys.")
        for key in verb.in_keys:
            require_key_error(subject, verb, given, key, name)
    latent_keys = {as_tuple(key) for key in subject.latent_keys}
    named = {subject.key_map.leaf(leaf) for leaf in subject.latent_spec.keys()}  # noqa: SIM118 (a spec is no mapping)
    require(latent_keys == named, subject, f"latent_keys are {latent_keys}, but latent_spec has {named}.")


def check_values(subject: WorldModel, data: Data) -> None:
    """What verbs write is finite, float32 where real, and inside the latent's spec."""
    inputs = data.inputs(subject, (4,))
    for name, verb in verbs_of(subject).items():
        out = verb(inputs.select(*verb.in_keys))
        for key in verb.out_keys:
            value = out.get(key)
            require(bool(value.isfinite().all()), subject, f"{name} writes numbers that are not finite to {key!r}.")
            single = not value.is_floating_point() or value.dtype is torch.float32
            require(single, subject, f"{name} writes {key!r} as {value.dtype}; real numbers are float32.")
        if name != "decode":
            require_latent(subject, subject.read_latent(out), (4,), name)
    require_latent(subject, subject.initial_latent((4,)), (4,), "initial_latent")


def check_batch_shapes(subject: WorldModel, data: Data) -> None:
    """Verbs, features, discount and mask serve any batch shape."""
    for batch in BATCHES:
        inputs = data.inputs(subject, batch)
        for name, verb in verbs_of(subject).items():
            given = inputs.select(*verb.in_keys)
            out = run(subject, verb, given)
            require(tuple(out.batch_size) == batch, subject, f"{name} changes the batch size {batch} of its input.")
            for key in verb.out_keys:
                lead = tuple(out.get(key).shape[: len(batch)])
                require(lead == batch, subject, f"{name} writes {key!r} of leading shape {lead} for a batch {batch}.")
            if len(batch) > 1:
                flat = run(subject, verb, given.reshape(-1)).reshape(*batch)
                claim = f"{name} of a batch {batch} differs from the same rows side by side under the same noise"
                require_equal(subject, out, flat, claim, tolerance=1e-5)
        latent = subject.read_latent(inputs)
        features, discount, mask = (
            subject.latent_features(latent),
            subject.discount(latent),
            subject.action_mask(latent),
        )
        require(
            tuple(features.shape[:-1]) == batch, subject, f"latent_features are {tuple(features.shape)} for {batch}."
        )
        require(torch.equal(subject.features(inputs), features), subject, "features(td) differs from latent_features.")
        broadcast = tuple((discount + torch.zeros(*batch, 1)).shape) == (*batch, 1)
        require(broadcast, subject, f"discount is {tuple(discount.shape)}, not broadcastable against {(*batch, 1)}.")
        within = bool(((discount >= 0) & (discount <= 1)).all())
        require(within, subject, f"discount must lie in [0, 1], got {discount.tolist()}.")
        width = (*batch, subject.action_space.width)
        require(mask is None or tuple(mask.shape) == width, subject, f"action_mask must be None or of shape {width}.")


def check_modes(subject: WorldModel, data: Data) -> None:
    """Verbs are deterministic under `ModeNoise`: nothing draws without the noise source."""
    inputs = data.inputs(subject, (4,))
    for name, verb in verbs_of(subject).items():
        given = inputs.select(*verb.in_keys)
        outs = []
        for _ in range(2):  # torch's global generator moves on in between, which must not matter
            subject.noise = ModeNoise()
            torch.rand(1)
            with torch.no_grad():
                outs.append(verb(given.copy()))
        claim = f"{name} under ModeNoise is not deterministic: something draws without the noise source"
        require_equal(subject, outs[0], outs[1], claim, tolerance=0.0)
