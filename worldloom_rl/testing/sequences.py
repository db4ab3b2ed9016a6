"""A sequence equals its steps and honours resets."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.modules import set_recurrent_mode

from worldloom_rl.testing.comparing import require, require_equal, untouched
from worldloom_rl.testing.subject import STEPS, Data, latent_of, run, seeded
from worldloom_rl.world_model import WorldModel


def check_sequences(subject: WorldModel, data: Data) -> None:
    """`observe` over time equals its single steps, from the carry of a recurrent model."""
    for batch in ((STEPS,), (3, STEPS), (2, 2, STEPS)):
        rows = data.rows(subject, batch)
        with untouched(subject, rows, "observe over time"):
            sequence = _observe_sequence(seeded(subject), rows)
        steps = _observe_steps(seeded(subject), rows)
        claim = f"observe over a sequence {batch} differs from its single steps under the same noise"
        require_equal(subject, sequence, steps, claim, tolerance=1e-5)
    if subject.recurrent:
        other = rows.clone().update(data.latents(subject, batch))
        changed = any(
            not torch.equal(left, right)
            for left, right in zip(
                _observe_sequence(seeded(subject), other).values(True, True),
                sequence.values(True, True),
                strict=True,
            )
        )
        require(changed, subject, "observe ignores the carried latent, though the model calls itself recurrent.")


def check_resets(subject: WorldModel, data: Data) -> None:
    """`is_init` starts a row anew, that row alone, and `encode` is `observe` on an initial row."""
    batch, reset, names = 3, 2, subject.key_map
    rows = data.rows(subject, (batch, STEPS))
    first = _observe_sequence(seeded(subject), rows[:, :reset])

    both = rows.clone()
    both.get(names.is_init)[:, reset] = True
    # What leads to an initial row must not matter: the second part has another carry and another previous action.
    second = both[:, reset:].clone()
    second.update(data.latents(subject, second.batch_size))
    action = data.actions(second.batch_size)
    for key, previous in zip(subject.action_keys, subject.previous_action_keys, strict=True):
        second.get(previous)[:, 0] = action.get(key)[:, 0]

    whole = _observe_sequence(seeded(subject), both)
    parts = TensorDict.cat([_observe_sequence(seeded(subject), rows[:, :reset]), _observe_sequence(subject, second)], 1)
    claim = "is_init inside a sequence does not reset it: observe differs from two sequences under the same noise"
    require_equal(subject, whole, parts, claim, tolerance=1e-5)
    require_equal(subject, whole[:, :reset], first, "a reset changes the rows before it", tolerance=1e-5)

    single = rows.clone()
    single.get(names.is_init)[1, reset] = True
    mixed, unbroken = _observe_sequence(seeded(subject), single), _observe_sequence(seeded(subject), rows)
    claim = "a reset of one row of the batch does not reset that row alone"
    require_equal(subject, mixed[1], whole[1], claim, tolerance=1e-5)
    require_equal(subject, mixed[[0, 2]], unbroken[[0, 2]], claim, tolerance=1e-5)

    initial = rows[:, 0].clone()
    initial.get(names.is_init).fill_(True)
    observed = latent_of(subject, run(subject, subject.observe, initial.select(*subject.in_keys)))
    encoded = latent_of(subject, run(subject, subject.encode, initial.select(*subject.observation_keys)))
    claim = "encode differs from observe on an initial row under the same noise"
    require_equal(subject, encoded, observed, claim, tolerance=1e-5)


def _observe_sequence(subject: WorldModel, rows: TensorDictBase) -> TensorDict:
    with torch.no_grad(), set_recurrent_mode(True):
        return latent_of(subject, subject.observe(rows.select(*subject.in_keys)))


def _observe_steps(subject: WorldModel, rows: TensorDictBase) -> TensorDict:
    """The latents of single steps, each given the one before as its carry."""
    time = rows.batch_dims - 1
    carry = subject.read_latent(rows.select(*subject.latent_keys).unbind(time)[0])
    found = []
    for step in rows.select(*subject.in_keys).unbind(time):
        row = step.clone()
        if subject.recurrent:
            subject.write_latent(row, carry)
        with torch.no_grad():
            row = subject.observe(row)
        found.append(latent_of(subject, row))
        carry = subject.read_latent(row)
        if subject.recurrent:
            carried = latent_of(subject, row.get("next"))
            claim = "the latent that observe carries under 'next' differs from the one at the root"
            require_equal(subject, carried, found[-1], claim, tolerance=0.0)
    steps: TensorDict = TensorDict.stack(found, time)
    return steps
