"""The filter over a sequence with its gradient written out.

Equals: `RSSM.observe_sequence`, in states and gradients, within rounding.
Taken: for windows [B, T] where there is a gradient to take, if the model is as in all official sizes; not compiled, and
not under autocast.
Saved: a step is too small for autograd. At 16 rows most of its time went to bookkeeping, and each weight's gradient was
a thin product a step, added to a sum of the weight's size. Here the backward pass only goes from row to row, and every
weight gets its gradient from one product over all rows after that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from worldloom_rl.functional.block_gru_update import by_block, side_by_side
from worldloom_rl.kernels.block_gru_update import Gated, block_gru_update_backward, block_gru_update_forward
from worldloom_rl.kernels.grouped_softmax import grouped_softmax
from worldloom_rl.kernels.rms_norm_silu import Normed, rms_norm_silu_backward, rms_norm_silu_forward
from worldloom_rl.kernels.transforms import transformed
from worldloom_rl.latents import CategoricalLatent, GaussianLatent
from worldloom_rl.models.dreamerv3.block_gru import BlockGRU
from worldloom_rl.models.dreamerv3.rssm import RecurrentState
from worldloom_rl.nn.mlp import MLP, NormedLinear
from worldloom_rl.nn.rms_norm import RMSNormSilu
from worldloom_rl.noise import Noise


def can_filter_fast(space: CategoricalLatent | GaussianLatent, posterior: MLP, is_init: Tensor) -> bool:
    """Whether `filter_fast` serves rows with flags is_init [*B, T, 1]."""
    return (
        torch.is_grad_enabled()
        and is_init.dim() == 3
        and isinstance(space, CategoricalLatent)
        and space.temperature is None
        and len(posterior) == 2
        and not torch.is_autocast_enabled(is_init.device.type)
        and not torch.compiler.is_compiling()
        and not transformed()
    )


def filter_fast(
    core: BlockGRU,
    posterior: MLP,
    space: CategoricalLatent | GaussianLatent,
    deterministic: Tensor,
    stochastic: Tensor,
    action: Tensor,
    tokens: Tensor,
    is_init: Tensor,
    noise: Noise,
) -> RecurrentState:
    """States [B, T, …]; arguments as of `RSSM.observe_sequence`.

    Args:
        posterior: with one hidden layer.
        space: one-hot.
    """
    hidden, output = posterior[0], posterior[1]
    assert isinstance(space, CategoricalLatent)
    assert isinstance(hidden, NormedLinear)
    assert isinstance(output, nn.Linear)
    assert isinstance(hidden.norm, RMSNormSilu)
    keep = (~is_init).to(deterministic.dtype)
    tokens = tokens.to(deterministic.dtype)
    embedded = core.embed_action(action * keep)
    embedded, tokens, keep = (x.transpose(0, 1) for x in (embedded, tokens, keep))
    by_state, by_token = hidden.weight.split([deterministic.shape[-1], tokens.shape[-1]], 1)
    weights = Weights(
        *_of_layer(core.from_deterministic),
        *_of_layer(core.from_stochastic),
        *(core.mix.weight, core.mix.bias, core.mix_norm.weight, core.gates.weight, core.gates.bias),
        *(by_state, hidden.norm.weight, output.weight, output.bias),
    )
    observed = F.linear(tokens, by_token, hidden.bias)
    carry = (deterministic, space.features(stochastic))
    given = (space, noise, core.mix_norm.eps, *carry, embedded, observed, keep)
    states, flats, parameters = (x.transpose(0, 1) for x in _Filter.apply(*given, *weights))  # type: ignore[no-untyped-call]
    return RecurrentState(states, flats.unflatten(-1, space.shape), parameters)


def _of_layer(layer: NormedLinear) -> tuple[Tensor, Tensor, Tensor]:
    assert isinstance(layer.norm, RMSNormSilu)
    return layer.weight, layer.bias, layer.norm.weight


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


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        space: CategoricalLatent,
        noise: Noise,
        eps: float,
        state: Tensor,
        flat: Tensor,
        action: Tensor,
        observed: Tensor,
        keep: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States [T, B, D], flat stochastic states and raw parameters [T, B, S · K].

        Args:
            action: [T, B, hidden] embedded; observed: [T, B, hidden] the tokens' share of the posterior's hidden layer.
            keep: [T, B, 1], 0 where an episode begins.
        """
        weights = Weights(*parameters).forwards()
        rows: list[Row] = []
        arrived: list[tuple[Tensor, Tensor, Tensor]] = []
        for action_t, observed_t, keep_t in zip(action, observed, keep, strict=True):
            row, state = _advance(weights, eps, state * keep_t, flat * keep_t, action_t, observed_t)
            output = torch.addmm(weights.output_bias, row.hidden.value, weights.output)
            flat = space.features(space.sample(output, noise))
            rows.append(row)
            arrived.append((state, flat, output))
        states, flats, outputs = (torch.stack(parts) for parts in zip(*arrived, strict=True))
        ctx.rows, ctx.space = rows, space
        ctx.save_for_backward(keep, states, outputs, *parameters)
        return states, flats, outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_states: Tensor, by_flats: Tensor, by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        keep, states, outputs, *parameters = ctx.saved_tensors
        weights, space, rows = Weights(*parameters).backwards(), ctx.space, ctx.rows
        softmax = grouped_softmax(outputs.unflatten(-1, space.shape))
        by_state, by_flat = torch.zeros_like(by_states[0]), torch.zeros_like(by_flats[0])
        gradients: list[RowGradient] = []
        for t in reversed(range(len(rows))):
            product = (by_flats[t] + by_flat).unflatten(-1, space.shape).mul_(softmax[t])
            straight = product.addcmul_(softmax[t], product.sum(-1, keepdim=True), value=-1)
            by_output = by_outputs[t].add(straight.flatten(-2), alpha=1 - space.unimix)
            gradient, by_state, by_flat = _retreat(weights, rows[t], by_states[t] + by_state, by_output)
            by_state, by_flat = by_state.mul_(keep[t]), by_flat.mul_(keep[t])
            gradients.append(gradient)
        joined = RowGradient(*(torch.cat(parts[::-1]) for parts in zip(*gradients, strict=True)))
        time = states.shape[:2]
        by_action, by_observed = joined.action.unflatten(0, time), joined.hidden.unflatten(0, time)
        by_weights = _weight_gradients(rows, states.flatten(0, 1), joined, weights.mix.shape[0])
        return None, None, None, by_state, by_flat, by_action, by_observed, None, *by_weights


def _advance(
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


def _retreat(weights: Weights, row: Row, by_after: Tensor, by_output: Tensor) -> tuple[RowGradient, Tensor, Tensor]:
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


def _weight_gradients(rows: list[Row], states: Tensor, by: RowGradient, number: int) -> Weights:
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
