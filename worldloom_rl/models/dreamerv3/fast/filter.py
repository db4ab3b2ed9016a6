"""The filter over a sequence with its gradient written out.

Equals: `RSSM.observe_sequence`, in states and gradients, within rounding.
Taken: for windows [B, T] where there is a gradient to take, if the model is as in all official sizes; not compiled, and
under autocast on a CPU alone, in float32: what it saves is not in the products, which are all that autocast shortens.
Saved: a step is too small for autograd. At 16 rows most of its time went to bookkeeping, and each weight's gradient was
a thin product a step, added to a sum of the weight's size. Here the backward pass only goes from row to row, and every
weight gets its gradient from one product over all rows after that.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from worldloom_rl.kernels.context import Context
from worldloom_rl.kernels.grouped_softmax import grouped_softmax
from worldloom_rl.kernels.transforms import transformed
from worldloom_rl.latents import CategoricalLatent, GaussianLatent
from worldloom_rl.models.dreamerv3.block_gru import BlockGRU
from worldloom_rl.models.dreamerv3.fast.row import Row, RowGradient, Weights, advance, retreat, weight_gradients
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
        and posterior[0].weight.dtype in (torch.float32, torch.float64)
        and (is_init.device.type == "cpu" or not torch.is_autocast_enabled(is_init.device.type))
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
    with torch.autocast(is_init.device.type, enabled=False):
        keep = (~is_init).to(deterministic.dtype)
        tokens = tokens.to(deterministic.dtype)
        embedded = core.embed_action(action * keep)
        embedded, tokens, keep = (x.transpose(0, 1) for x in (embedded, tokens, keep))
        by_state, by_token = torch.split(hidden.weight, [deterministic.shape[-1], tokens.shape[-1]], 1)
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
    return RecurrentState(states, torch.unflatten(flats, -1, space.shape), parameters)


def _of_layer(layer: NormedLinear) -> tuple[Tensor, Tensor, Tensor]:
    assert isinstance(layer.norm, RMSNormSilu)
    return layer.weight, layer.bias, layer.norm.weight


class _Context(Context, Protocol):
    rows: list[Row]
    space: CategoricalLatent


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
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
            row, state = advance(weights, eps, state * keep_t, flat * keep_t, action_t, observed_t)
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
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(gradients[0].device.type, enabled=False):  # also where backward() is called under it
            return _Filter._backward(ctx, *gradients)

    @staticmethod
    def _backward(ctx: _Context, by_states: Tensor, by_flats: Tensor, by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        keep, states, outputs, *parameters = ctx.saved_tensors
        weights, space, rows = Weights(*parameters).backwards(), ctx.space, ctx.rows
        softmax = grouped_softmax(torch.unflatten(outputs, -1, space.shape))
        by_state, by_flat = torch.zeros_like(by_states[0]), torch.zeros_like(by_flats[0])
        gradients: list[RowGradient] = []
        for t in reversed(range(len(rows))):
            product = torch.unflatten(by_flats[t] + by_flat, -1, space.shape).mul_(softmax[t])
            straight = product.addcmul_(softmax[t], product.sum(-1, keepdim=True), value=-1)
            by_output = by_outputs[t].add(straight.flatten(-2), alpha=1 - space.unimix)
            gradient, by_state, by_flat = retreat(weights, rows[t], by_states[t] + by_state, by_output)
            by_state, by_flat = by_state.mul_(keep[t]), by_flat.mul_(keep[t])
            gradients.append(gradient)
        joined = RowGradient(*(torch.cat(parts[::-1]) for parts in zip(*gradients, strict=True)))
        time = states.shape[:2]
        by_action, by_observed = (torch.unflatten(x, 0, time) for x in (joined.action, joined.hidden))
        by_weights = weight_gradients(rows, states.flatten(0, 1), joined, weights.mix.shape[0])
        return None, None, None, by_state, by_flat, by_action, by_observed, None, *by_weights
