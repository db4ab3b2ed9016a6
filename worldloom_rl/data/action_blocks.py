"""Frame skip: every k-th row of a window, with the k actions in between as one block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.data import Bounded, Composite, MultiOneHot, OneHot, TensorSpec

from worldloom_rl.keys import IS_INIT, previous_action_keys


def action_block_spec(spec: Composite, length: int) -> Composite:
    """The spec of `length` actions given as one, as `make_env(…, action_block=length)` has it.

    Real ones are [length · A], discrete ones [length, classes], one-hot in the last dimension.

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
        if isinstance(leaf, MultiOneHot):
            return MultiOneHot([box.n for box in leaf.space] * length, dtype=leaf.dtype)
        classes = leaf.shape[-1]
        return OneHot(classes, shape=(length * leaf.shape[:-1].numel(), classes), dtype=leaf.dtype)
    if isinstance(leaf, Bounded) and leaf.dtype.is_floating_point and len(leaf.shape) == 1:
        low, high = leaf.space.low.repeat(length), leaf.space.high.repeat(length)
        return Bounded(low, high, shape=low.shape, dtype=leaf.dtype)
    raise ValueError(f"The action {key!r} of {leaf} cannot be given in blocks of {length}; a flat one can.")


def action_blocks(
    rows: TensorDictBase, length: int, observation_keys: Sequence[NestedKey], action_spec: Composite
) -> TensorDict:
    """Rows [*B, S + 1] of rows [*B, S · length + 1] of one episode, with blocks of actions as previous actions.

    A block holds, in order, the actions between its row and the row before; the first row's is zero.

    Args:
        observation_keys: what is kept beside "is_init" and the previous actions.
        action_spec: of the blocks, see `action_block_spec`.
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
    keys = tuple(action_spec.keys(include_nested=True, leaves_only=True))
    for key, stored in zip(keys, previous_action_keys(keys), strict=True):
        actions = rows[stored].narrow(time, 1, steps * length)
        block = actions.reshape(*lead, steps, *action_spec[key].shape)
        blocks[stored] = torch.cat([torch.zeros_like(block.narrow(time, 0, 1)), block], time)
    return blocks
