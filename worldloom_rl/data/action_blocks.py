"""Frame skip: every k-th row of a window, with the k actions in between as one block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.data import Bounded, Composite, MultiOneHot, OneHot, TensorSpec

from worldloom_rl.keys import IS_INIT


def action_block_spec(spec: Composite, length: int) -> Composite:
    """The spec of `length` actions given as one [length · A], as `make_env(…, action_block=length)` has it.

    Raises ValueError for an action that is not flat.
    """
    if length == 1:
        return spec
    blocks = Composite()
    for key, leaf in spec.items(include_nested=True, leaves_only=True):
        blocks[key] = _block(key, leaf, length)
    return blocks


def _block(key: NestedKey, leaf: TensorSpec, length: int) -> TensorSpec:
    if isinstance(leaf, OneHot):
        counts = [box.n for box in leaf.space] if isinstance(leaf, MultiOneHot) else [leaf.space.n]
        return MultiOneHot(counts * length, dtype=leaf.dtype)
    if isinstance(leaf, Bounded) and leaf.dtype.is_floating_point and len(leaf.shape) == 1:
        low, high = leaf.space.low.repeat(length), leaf.space.high.repeat(length)
        return Bounded(low, high, shape=low.shape, dtype=leaf.dtype)
    raise ValueError(f"The action {key!r} of {leaf} cannot be given in blocks of {length}; a flat one can.")


def action_blocks(
    rows: TensorDictBase, length: int, observation_keys: Sequence[NestedKey], previous_action_keys: Sequence[NestedKey]
) -> TensorDict:
    """Rows [*B, S + 1] of rows [*B, S · length + 1] of one episode, with blocks [length · A] as previous actions.

    A block holds, in order, the actions between its row and the row before; the first row's is zero.

    Raises ValueError if the rows do not divide that way.
    """
    time = rows.batch_dims - 1
    steps, rest = divmod(rows.shape[time] - 1, length)
    if rest:
        raise ValueError(f"Blocks of {length} actions need {length} · S + 1 rows, got {rows.shape[time]}.")
    lead = rows.batch_size[:-1]
    blocks = TensorDict({}, batch_size=[*lead, steps + 1], device=rows.device)
    for key in (*observation_keys, IS_INIT):
        value = rows[key]
        places = torch.arange(0, value.shape[time], length, device=value.device)
        blocks[key] = value.index_select(time, places)
    for key in previous_action_keys:
        actions = rows[key].narrow(time, 1, steps * length)
        block = actions.reshape(*lead, steps, length * actions.shape[-1])
        blocks[key] = torch.cat([torch.zeros_like(block.narrow(time, 0, 1)), block], time)
    return blocks
