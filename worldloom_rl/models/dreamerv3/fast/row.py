"""One row of the fast filter, forwards and backwards, and the weights' gradients from all rows at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from worldloom_rl.functional.block_gru_update import by_block, side_by_side
from worldloom_rl.kernels.block_gru_update import Gated, block_gru_update_backward, block_gru_update_forward
from worldloom_rl.kernels.rms_norm_silu import Normed, rms_norm_silu_backward, rms_norm_silu_forward


class Weights(NamedTuple):
    """Parameters of core and posterior; a "norm" is the weight of the norm that follows. Also their gradients."""

    state: Tensor  # [hidden, D] the core's embedding of the deterministic state
    state_bias: Tensor
    state_norm: Tensor
    flat: Tensor  # [hidden, S · K] its embedding of the stochastic state
    flat_bias: Tensor
    flat_norm: Tensor
    mix: Tensor  # [G, (D / G) + 3 · hidden, D / G]
    mix_bias: Tensor
    mix_norm: Tensor
    gates: Tensor  # [G, D / G, 3 D / G]
    gates_bias: Tensor
    hidden: Tensor  # [hidden, D] of the posterior's hidden layer; tokens and bias have been added up before
    hidden_norm: Tensor
    output: Tensor  # [S · K, hidden]
    output_bias: Tensor

    def forwards(self) -> Weights:
        """Views for products from the right, and for sums with blocks of rows."""
        number = self.mix.shape[0]
        return self._replace(
            state=self.state.t(),
            flat=self.flat.t(),
            mix_bias=self.mix_bias.view(number, 1, -1),
            gates_bias=self.gates_bias.view(number, 1, -1),
            hidden=self.hidden.t(),
            output=self.output.t(),
        )

    def backwards(self) -> Weights:
        """Views for products of gradients."""
        return self._replace(mix=self.mix.transpose(1, 2), gates=self.gates.transpose(1, 2))


class Row(NamedTuple):
    """What the gradient of one row [B, …] needs."""

    state: Tensor  # [B, D] before the row, zero where an episode begins
    flat: Tensor  # [B, S · K] likewise
    shared: Tensor  # [B, 3 · hidden] what all blocks read
    state_norm: Normed
    flat_norm: Normed
    mixed: Normed
    gated: Gated
    hidden: Normed


class RowGradient(NamedTuple):
    """Gradients by what stands before each product and norm of one row."""

    state: Tensor
    state_norm: Tensor
    flat: Tensor
    flat_norm: Tensor
    mixed: Tensor
    mix_norm: Tensor
    gates: Tensor
    hidden: Tensor
    hidden_norm: Tensor
    output: Tensor
    action: Tensor


def advance(
    weights: Weights, eps: float, state: Tensor, flat: Tensor, action: Tensor, observed: Tensor
) -> tuple[Row, Tensor]:
    """The row, up to the posterior's hidden layer, and the next deterministic state."""
    number = weights.mix.shape[0]
    state_norm = rms_norm_silu_forward(torch.addmm(weights.state_bias, state, weights.state), weights.state_norm, eps)
    flat_norm = rms_norm_silu_forward(torch.addmm(weights.flat_bias, flat, weights.flat), weights.flat_norm, eps)
    shared = torch.cat([state_norm.value, flat_norm.value, action], -1)
    inputs = torch.cat([by_block(state, number), shared.expand(number, -1, -1)], -1)
    product = side_by_side(torch.baddbmm(weights.mix_bias, inputs, weights.mix))
    mixed = rms_norm_silu_forward(product, weights.mix_norm, eps)
    gates = torch.baddbmm(weights.gates_bias, by_block(mixed.value, number), weights.gates)
    after, gated = block_gru_update_forward(gates, state)
    hidden = rms_norm_silu_forward(torch.addmm(observed, after, weights.hidden), weights.hidden_norm, eps)
    return Row(state, flat, shared, state_norm, flat_norm, mixed, gated, hidden), after


def retreat(weights: Weights, row: Row, by_after: Tensor, by_output: Tensor) -> tuple[RowGradient, Tensor, Tensor]:
    """The row's gradients, and those by the deterministic and the flat stochastic state before it.

    Args:
        by_after: [B, D] by the state after the row, but for what the posterior makes of it; by_output: [B, S · K].
    """
    number = weights.mix.shape[0]
    own = row.state.shape[-1] // number
    by_hidden, hidden_norm = _norm_backward(by_output @ weights.output, weights.hidden_norm, row.hidden)
    by_after = torch.addmm(by_after, by_hidden, weights.hidden)
    by_gates, by_state = block_gru_update_backward(by_after, row.gated)
    by_mixed = side_by_side(torch.bmm(by_gates, weights.gates))
    by_mixed, mix_norm = _norm_backward(by_mixed, weights.mix_norm, row.mixed)
    by_inputs = torch.bmm(by_block(by_mixed, number), weights.mix)
    from_state, from_flat, by_action = by_inputs[..., own:].sum(0).chunk(3, -1)
    from_state, state_norm = _norm_backward(from_state, weights.state_norm, row.state_norm)
    from_flat, flat_norm = _norm_backward(from_flat, weights.flat_norm, row.flat_norm)
    by_state = by_state.add_(side_by_side(by_inputs[..., :own])).addmm_(from_state, weights.state)
    gradient = RowGradient(
        from_state, state_norm, from_flat, flat_norm, by_mixed, mix_norm,
        side_by_side(by_gates), by_hidden, hidden_norm, by_output, by_action,
    )  # fmt: skip
    return gradient, by_state, from_flat @ weights.flat


def _norm_backward(gradient: Tensor, weight: Tensor, norm: Normed) -> tuple[Tensor, Tensor]:
    return rms_norm_silu_backward(gradient, weight, norm.normed, norm.inverse)


def weight_gradients(rows: list[Row], states: Tensor, by: RowGradient, number: int) -> Weights:
    """Gradients of all weights, each from one product over all T · B rows; states are those after each, [T · B, D]."""
    before, flat, shared = (torch.cat(parts) for parts in zip(*(row[:3] for row in rows), strict=True))
    mixed, hidden = (torch.cat([row.mixed.value for row in rows]), torch.cat([row.hidden.value for row in rows]))
    by_own = torch.bmm(by_block(before, number).transpose(1, 2), by_block(by.mixed, number))
    by_shared = by_block(shared.t() @ by.mixed, number)
    return Weights(
        state=by.state.t() @ before,
        state_bias=by.state.sum(0),
        state_norm=by.state_norm.sum(0),
        flat=by.flat.t() @ flat,
        flat_bias=by.flat.sum(0),
        flat_norm=by.flat_norm.sum(0),
        mix=torch.cat([by_own, by_shared], 1),
        mix_bias=by.mixed.sum(0),
        mix_norm=by.mix_norm.sum(0),
        gates=torch.bmm(by_block(mixed, number).transpose(1, 2), by_block(by.gates, number)),
        gates_bias=by.gates.sum(0),
        hidden=by.hidden.t() @ states,
        hidden_norm=by.hidden_norm.sum(0),
        output=by.output.t() @ hidden,
        output_bias=by.output.sum(0),
    )
