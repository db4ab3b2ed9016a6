"""The gated update of DreamerV3's recurrent state, with its gradient written out, and in pieces for many rows.

Equals: `functional.block_gru_update` within rounding; `many_rows_update` equals it after the product with the gates'
weights.
Taken: with its gradient written out wherever the code is not compiled. For 256 rows and more on a CPU, without a
gradient, block by block.
Saved: autograd's bookkeeping of a dozen small operations a step, and passes over memory: most work in place, and the
gates of one block for 256 rows fit a core's cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldloom_rl.functional import block_gru_update as plain
from worldloom_rl.functional.block_gru_update import by_block
from worldloom_rl.kernels.context import Context
from worldloom_rl.kernels.transforms import transformed
from worldloom_rl.kernels.wide_block_linear import takes_wide_product

_ROWS = 256  # whose gates of one block fit a core's cache


class Gated(NamedTuple):
    """What the gradient of the update needs; [G, N, D / G] but for the state [N, D]."""

    reset: Tensor  # σ(r)
    raw: Tensor  # the candidate before reset and tanh
    candidate: Tensor
    update: Tensor  # σ(update − 1)
    state: Tensor


def block_gru_update(gates: Tensor, state: Tensor) -> Tensor:
    """[N, D] the next state from raw gates [G, N, 3 D / G] and the state [N, D]."""
    if torch.compiler.is_compiling() or transformed():
        return plain.block_gru_update(gates, state)
    if torch.is_grad_enabled() and (gates.requires_grad or state.requires_grad):
        return _BlockGRUUpdate.apply(gates, state)  # type: ignore[no-any-return, no-untyped-call]
    return block_gru_update_forward(gates, state)[0]


def takes_many_rows(x: Tensor) -> bool:
    """Whether `many_rows_update` serves rows [N, D]."""
    return takes_wide_product(x) and x.device.type == "cpu"


def many_rows_update(mixed: Tensor, state: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """[N, D] the next state; `out`, if there is one, unless compiled.

    Args:
        mixed: [N, D] what the gates read; state: [N, D].
        weight: [G, D / G, 3 D / G] of the gates; bias: [3 D].
    """
    out = torch.empty_like(state, memory_format=torch.contiguous_format) if out is None else out
    shares = (x.chunk(weight.shape[0], -1) for x in (mixed, state, out, bias))
    # The three gates stand side by side within each block, not within the whole.
    after = [
        _one_block_update(torch.mm(x, block_weight), block_bias, before, place)
        for x, before, place, block_bias, block_weight in zip(*shares, weight, strict=True)
    ]
    return torch.cat(after, -1) if torch.compiler.is_compiling() else out


def _one_block_update(gates: Tensor, bias: Tensor, state: Tensor, out: Tensor) -> Tensor:
    """[N, D / G] the next state of one block; `out` unless compiled. Uses up the gates.

    Args:
        gates: [N, 3 D / G] of the block, before their bias [3 D / G].
    """
    reset_bias, candidate_bias, update_bias = bias.chunk(3)
    if torch.compiler.is_compiling():
        reset, candidate, update = gates.chunk(3, -1)
        candidate = _tanh(torch.sigmoid(reset + reset_bias) * (candidate + candidate_bias))
        return state + torch.sigmoid(update + (update_bias - 1)) * (candidate - state)
    bias = torch.cat([reset_bias, candidate_bias, update_bias - 1])
    rows = (torch.split(x, _ROWS) for x in (gates, state, out))
    for gates_, state_, out_ in zip(*rows, strict=True):
        reset, candidate, update = gates_.add_(bias).chunk(3, -1)
        candidate, update = candidate.mul_(reset.sigmoid_()).tanh_(), update.sigmoid_()
        torch.lerp(state_, candidate.to(state.dtype), update.to(state.dtype), out=out_)
    return out


def _tanh(x: Tensor) -> Tensor:
    """In code compiled for a CPU a quarter of the time of torch.tanh; absolute error 2e-7."""
    return 2 * torch.sigmoid(2 * x) - 1


def block_gru_update_forward(gates: Tensor, state: Tensor) -> tuple[Tensor, Gated]:
    """The next state, and what its gradient needs."""
    raw_reset, raw, raw_update = gates.chunk(3, -1)
    # Out of place: on a CPU what follows is faster on tensors of their own than within the gates.
    reset, update = raw_reset.sigmoid(), (raw_update - 1).sigmoid_()
    candidate = (reset * raw).tanh_()
    after = torch.empty_like(state, memory_format=torch.contiguous_format)
    blocks, dtype = gates.shape[0], state.dtype  # under autocast the gates have fewer digits than the state
    torch.lerp(by_block(state, blocks), candidate.to(dtype), update.to(dtype), out=by_block(after, blocks))
    return after, Gated(reset, raw, candidate, update, state)


def block_gru_update_backward(gradient: Tensor, gated: Gated) -> tuple[Tensor, Tensor]:
    """Gradients by the gates and by the state."""
    reset, raw, candidate, update, state = gated
    number, dtype = reset.shape[0], reset.dtype
    gradient = by_block(gradient, number)
    by_candidate = gradient * update
    by_state = torch.empty_like(state, memory_format=torch.contiguous_format)
    torch.sub(gradient, by_candidate, out=by_block(by_state, number))
    by_update = torch.sub(candidate, by_block(state, number)).mul_(gradient)
    product = torch.ops.aten.tanh_backward(by_candidate.to(dtype), candidate)
    by_reset = torch.ops.aten.sigmoid_backward(product * raw, reset)
    by_update = torch.ops.aten.sigmoid_backward(by_update.to(dtype), update)
    return torch.cat([by_reset, product.mul_(reset), by_update], -1), by_state


class _BlockGRUUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, gates: Tensor, state: Tensor) -> Tensor:
        after, gated = block_gru_update_forward(gates, state)
        ctx.save_for_backward(*gated)
        return after

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return block_gru_update_backward(gradient, Gated(*ctx.saved_tensors))
