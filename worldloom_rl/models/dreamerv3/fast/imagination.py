"""Imagination of many rows without a gradient: the steps of `RSSM.predict`, laid out for a CPU.

Equals: features and actions of the plain loop in `DreamerV3.imagine_states`, within rounding.
Taken: for 256 rows and more on a CPU, if the stochastic state is one-hot.
Saved: a class of the stochastic state picks a row of a table instead of multiplying a matrix by zeros and a one, layers
that read the same memory are one product, and weights are rearranged once for all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl.kernels.block_gru_update import many_rows_update
from worldloom_rl.kernels.transforms import transformed
from worldloom_rl.kernels.wide_block_linear import MANY_ROWS, shared_weight, wide_block_linear
from worldloom_rl.latents import CategoricalLatent, GaussianLatent
from worldloom_rl.models.dreamerv3.block_gru import BlockGRU
from worldloom_rl.nn.mlp import MLP, NormedLinear
from worldloom_rl.noise import Noise


def can_imagine_fast(space: CategoricalLatent | GaussianLatent, prior: MLP, like: Tensor) -> bool:
    """Whether `imagine_fast` serves rows [..., D]."""
    return (
        isinstance(space, CategoricalLatent)
        and space.temperature is None
        and isinstance(prior[0], NormedLinear)
        and like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.float64)
        and like.shape[:-1].numel() >= MANY_ROWS
        and not torch.is_autocast_enabled("cpu")
        and not transformed()
    )


class Layout(NamedTuple):
    """Weights of the core and the prior as an imagination reads them."""

    memory: Tensor  # [D, 2 · hidden] first layers of core and prior, side by side
    memory_bias: Tensor  # [2 · hidden]
    stochastic: Tensor  # [S · K, hidden] a row for each class of each group
    stochastic_bias: Tensor  # [hidden]
    shared: Tensor  # [3 · hidden, D] of the mix, what all blocks read

    @classmethod
    def of(cls, core: BlockGRU, prior: MLP) -> Layout:
        """A copy of their weights."""
        first, stochastic = prior[0], core.from_stochastic
        assert isinstance(first, NormedLinear)
        return cls(
            torch.cat([core.from_deterministic.weight.t(), first.weight.t()], 1),
            torch.cat([core.from_deterministic.bias, first.bias]),
            stochastic.weight.t().contiguous(),
            stochastic.bias,
            shared_weight(core.mix.weight, core.mix.own),
        )


class ImaginedStep(nn.Module):
    """One step for N rows; it has no weights of its own, and is a module to be compiled like the others."""

    def forward(
        self,
        core: BlockGRU,
        prior: MLP,
        layout: Layout,
        state: Tensor,
        embedded: Tensor,
        stochastic: Tensor,
        action: Tensor,
        out: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next deterministic state [N, D], its products with `layout.memory`, and the prior's raw parameters.

        Args:
            state: [N, D]; embedded: [N, 2 · hidden] its products with `layout.memory`.
            stochastic: [N, hidden] the product of the stochastic state and `layout.stochastic`.
            action: [N, A] flat.
            out: [N, D] where the next state goes; when compiled, somewhere else.
        """
        width = stochastic.shape[-1]
        parts = (
            core.from_deterministic.norm(embedded[:, :width]),
            core.from_stochastic.norm(stochastic + layout.stochastic_bias),
            core.embed_action(action),
        )
        mixed = wide_block_linear(state, torch.cat(parts, -1), core.mix.weight, core.mix.bias, layout.shared)
        mixed = core.mix_norm(mixed, inplace=True)
        state = many_rows_update(mixed, state, core.gates.weight, core.gates.bias, out)
        embedded = torch.addmm(layout.memory_bias, state, layout.memory)
        first, *others = prior
        assert isinstance(first, NormedLinear)
        parameters = first.norm(embedded[:, width:])
        for layer in others:
            parameters = layer(parameters)
        return state, embedded, parameters


@torch.no_grad()
def imagine_fast(
    step: ImaginedStep,
    core: BlockGRU,
    prior: MLP,
    space: CategoricalLatent | GaussianLatent,
    features: Tensor,
    act: Callable[[Tensor, Noise], Tensor],
    bounded: Callable[[Tensor], Tensor],
    noise: Noise,
) -> Tensor:
    """Fills features [1 + H, *B, D + S · K] from the first row on; gives the actions [H, *B, A].

    Args:
        space: one-hot.
        act: flat actions from a row of features and noise.
        bounded: from these the ones that the environment would see.
    """
    assert isinstance(space, CategoricalLatent)
    layout = Layout.of(core, prior)
    width, batch = features.shape[-1] - space.features_width, features.shape[1:-1]
    state, one_hot = torch.split(features[0].flatten(0, -2), [width, space.features_width], -1)
    embedded = torch.addmm(layout.memory_bias, state, layout.memory)
    stochastic = one_hot @ layout.stochastic
    first_class = torch.arange(0, space.features_width, space.classes)
    actions = []
    for row, after in pairwise(features):
        actions.append(act(row, noise))
        action, out = bounded(actions[-1]).flatten(0, -2), after.flatten(0, -2)[:, :width]
        state, embedded, parameters = step(core, prior, layout, state, embedded, stochastic, action, out)
        if state is not out:
            out.copy_(state)
        index = space.draw(parameters.unflatten(0, batch), noise)
        after[..., width:].zero_().unflatten(-1, space.shape).scatter_(-1, index.unsqueeze(-1), 1.0)
        stochastic = F.embedding_bag((index + first_class).flatten(0, -2), layout.stochastic, mode="sum")
    return torch.stack(actions)
