"""The filter over a sequence with its gradient written out: the same numbers as step by step, in less time.

A step is too small for autograd: at 16 rows most of its time went to bookkeeping, and each weight's gradient was a thin
product a step, added to a sum of the weight's size. Here the backward pass only goes from row to row, and every weight
gets its gradient from one product over all rows after that.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from worldloom_rl.functional.block_gru_update import (
    block_gru_update_backward,
    block_gru_update_forward,
    by_block,
    side_by_side,
)
from worldloom_rl.functional.grouped_softmax import grouped_softmax
from worldloom_rl.functional.rms_norm_silu import rms_norm_silu_backward, rms_norm_silu_forward
from worldloom_rl.latents import CategoricalLatent
from worldloom_rl.nn.block_gru import BlockGRU
from worldloom_rl.nn.mlp import MLP, NormedLinear
from worldloom_rl.nn.rms_norm import RMSNormSilu
from worldloom_rl.noise import Noise

States = tuple[Tensor, Tensor, Tensor]  # deterministic [T, B, D], flat stochastic and parameters [T, B, S · K]


def can_scan(space: object, posterior: MLP, like: Tensor) -> bool:
    """Whether `scan` serves: there is a gradient to take, and the model is as in all official sizes."""
    return (
        torch.is_grad_enabled()
        and isinstance(space, CategoricalLatent)
        and space.temperature is None
        and len(posterior) == 2
        and not torch.is_autocast_enabled(like.device.type)
        and not torch.compiler.is_compiling()
    )


def scan(
    core: BlockGRU,
    posterior: MLP,
    space: CategoricalLatent,
    carry: tuple[Tensor, Tensor],
    action: Tensor,
    tokens: Tensor,
    keep: Tensor,
    noise: Noise,
) -> States:
    """States of a sequence from the carry: deterministic [B, D] and flat stochastic state [B, S · K].

    Args:
        posterior: with one hidden layer.
        action: [T, B, hidden] embedded; tokens: [T, B, E]; keep: [T, B, 1], 0 where an episode begins.
    """
    hidden, output = posterior[0], posterior[1]
    assert isinstance(hidden, NormedLinear)
    assert isinstance(output, nn.Linear)
    assert isinstance(hidden.norm, RMSNormSilu)
    by_state, by_token = hidden.weight.split([carry[0].shape[-1], tokens.shape[-1]], 1)
    embedded = F.linear(tokens, by_token, hidden.bias)
    weights = [
        parameter
        for layer in (core.from_deterministic, core.from_stochastic)
        for parameter in (layer.weight, layer.bias, layer.norm.weight)
    ]
    weights += [core.mix.weight, core.mix.bias, core.mix_norm.weight, core.gates.weight, core.gates.bias]
    weights += [by_state, hidden.norm.weight, output.weight, output.bias]
    eps = core.mix_norm.eps
    return _Scan.apply(space, noise, eps, *carry, action, embedded, keep, *weights)  # type: ignore[no-any-return, no-untyped-call]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        space: CategoricalLatent,
        noise: Noise,
        eps: float,
        state: Tensor,
        flat: Tensor,
        action: Tensor,
        embedded: Tensor,
        keep: Tensor,
        *weights: Tensor,
    ) -> States:
        (state_w, state_b, state_n, flat_w, flat_b, flat_n, mix_w, mix_b, mix_n, gates_w, gates_b, post_w, post_n,
         out_w, out_b) = weights  # fmt: skip
        number = mix_w.shape[0]
        mix_b, gates_b = mix_b.view(number, 1, -1), gates_b.view(number, 1, -1)
        state_w, flat_w, post_w, out_w = state_w.t(), flat_w.t(), post_w.t(), out_w.t()
        rows: list[tuple[Any, ...]] = []
        states: list[tuple[Tensor, Tensor, Tensor]] = []
        for action_t, embedded_t, keep_t in zip(action, embedded, keep, strict=True):
            state, flat = state * keep_t, flat * keep_t
            by_state = rms_norm_silu_forward(torch.addmm(state_b, state, state_w), state_n, eps)
            by_flat = rms_norm_silu_forward(torch.addmm(flat_b, flat, flat_w), flat_n, eps)
            shared = torch.cat([by_state[0], by_flat[0], action_t], -1)
            inputs = torch.cat([by_block(state, number), shared.expand(number, -1, -1)], -1)
            mixed = rms_norm_silu_forward(side_by_side(torch.baddbmm(mix_b, inputs, mix_w)), mix_n, eps)
            gates = torch.baddbmm(gates_b, by_block(mixed[0], number), gates_w)
            after, gated = block_gru_update_forward(gates, state)
            hidden = rms_norm_silu_forward(torch.addmm(embedded_t, after, post_w), post_n, eps)
            parameters = torch.addmm(out_b, hidden[0], out_w)
            rows.append((state, flat, shared, by_state[1:], by_flat[1:], mixed, gated, hidden))
            state, flat = after, space.features(space.sample(parameters, noise))
            states.append((state, flat, parameters))
        outputs = tuple(torch.stack(parts) for parts in zip(*states, strict=True))
        ctx.rows, ctx.space = rows, space
        ctx.save_for_backward(keep, *outputs, *weights)
        return outputs[0], outputs[1], outputs[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_states: Tensor, by_flats: Tensor, by_parameters: Tensor) -> tuple[Tensor | None, ...]:
        keep, states, _, parameters, *weights = ctx.saved_tensors
        state_w, _, state_n, flat_w, _, flat_n, mix_w, _, mix_n, gates_w, _, post_w, post_n, out_w, _ = weights
        number, own = mix_w.shape[0], states.shape[-1] // mix_w.shape[0]
        gates_w, mix_w = gates_w.transpose(1, 2), mix_w.transpose(1, 2)
        space = ctx.space
        softmax = grouped_softmax(parameters.unflatten(-1, space.shape))
        by_state, by_flat = torch.zeros_like(by_states[0]), torch.zeros_like(by_flats[0])
        found: list[tuple[Tensor, ...]] = []
        for t in reversed(range(len(ctx.rows))):
            _, _, _, state_norm, flat_norm, mixed, gated, hidden = ctx.rows[t]
            product = (by_flats[t] + by_flat).unflatten(-1, space.shape).mul_(softmax[t])
            straight = product.addcmul_(softmax[t], product.sum(-1, keepdim=True), value=-1)
            by_output = by_parameters[t].add(straight.flatten(-2), alpha=1 - space.unimix)
            by_hidden, post_n_rows = rms_norm_silu_backward(by_output @ out_w, post_n, *hidden[1:])
            by_state = torch.addmm(by_states[t] + by_state, by_hidden, post_w)
            by_gates, by_state = block_gru_update_backward(by_state, *gated)
            by_mixed = side_by_side(torch.bmm(by_gates, gates_w))
            by_mixed, mix_n_rows = rms_norm_silu_backward(by_mixed, mix_n, *mixed[1:])
            by_inputs = torch.bmm(by_block(by_mixed, number), mix_w)
            by_shared = by_inputs[..., own:].sum(0)
            from_state, from_flat, by_action = by_shared.chunk(3, -1)
            from_state, state_n_rows = rms_norm_silu_backward(from_state, state_n, *state_norm)
            from_flat, flat_n_rows = rms_norm_silu_backward(from_flat, flat_n, *flat_norm)
            by_state = by_state.add_(side_by_side(by_inputs[..., :own])).addmm_(from_state, state_w).mul_(keep[t])
            by_flat = (from_flat @ flat_w).mul_(keep[t])
            found.append((from_state, state_n_rows, from_flat, flat_n_rows, by_mixed, mix_n_rows,
                          side_by_side(by_gates), by_hidden, post_n_rows, by_output, by_action))  # fmt: skip

        (from_state, state_n_rows, from_flat, flat_n_rows, by_mixed, mix_n_rows, by_gates, by_hidden, post_n_rows,
         by_output, by_action) = (torch.cat(parts[::-1]) for parts in zip(*found, strict=True))  # fmt: skip
        before, flat, shared = (torch.cat([row[i] for row in ctx.rows]) for i in range(3))
        mixed, hidden = (torch.cat([row[i][0] for row in ctx.rows]) for i in (5, 7))
        mixed_blocks = by_block(by_mixed, number)
        by_own = torch.bmm(by_block(before, number).transpose(1, 2), mixed_blocks)
        by_dense = by_block(shared.t() @ by_mixed, number)
        time = states.shape[:2]
        return (
            None, None, None, by_state, by_flat,
            by_action.unflatten(0, time), by_hidden.unflatten(0, time), None,
            from_state.t() @ before, from_state.sum(0), state_n_rows.sum(0),
            from_flat.t() @ flat, from_flat.sum(0), flat_n_rows.sum(0),
            torch.cat([by_own, by_dense], 1), by_mixed.sum(0), mix_n_rows.sum(0),
            torch.bmm(by_block(mixed, number).transpose(1, 2), by_block(by_gates, number)), by_gates.sum(0),
            by_hidden.t() @ states.flatten(0, 1), post_n_rows.sum(0),
            by_output.t() @ hidden, by_output.sum(0),
        )  # fmt: skip
