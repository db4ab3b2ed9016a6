"""An ensemble of perceptrons whose weights are stacked, so that all members run in one product."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl.kernels.late_bias import affine, stacked_affine
from worldloom_rl.nn.mlp import Activation
from worldloom_rl.noise import Noise


class EnsembleLinear(nn.Module):
    """Weights of M affine maps, [M, out, in], and of their LayerNorms unless `norm` is False."""

    def __init__(self, members: int, inputs: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(members, outputs))
        self.norm_weight = nn.Parameter(torch.ones(members, outputs)) if norm else None
        self.norm_bias = nn.Parameter(torch.zeros(members, outputs)) if norm else None


class EnsembleMLP(nn.Module):
    """M independent perceptrons over the same input: [..., in] → [M, ..., out].

    Args:
        members: M.
        hidden: widths of the hidden layers, each with LayerNorm and activation.
        dropout: share of the first hidden layer's units dropped, before its LayerNorm; masks differ between members.
        activation: of the hidden layers.
    Reference: tdmpc2 common/layers.py, Ensemble.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        dropout: float = 0.0,
        activation: Activation = F.mish,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.members = members
        self.activation = activation
        self.dropout = dropout
        self.layers = nn.ModuleList(
            EnsembleLinear(members, i, o, norm=index < len(hidden)) for index, (i, o) in enumerate(pairwise(widths))
        )

    def draw_keep(self, x: Tensor, noise: Noise, members: Tensor | None = None) -> Tensor | None:
        """[M, ..., H] dropout masks for x [..., in]; None if the share of units dropped is 0."""
        first = self.layers[0]
        assert isinstance(first, EnsembleLinear)
        if self.dropout == 0:
            return None
        count = self.members if members is None else len(members)
        return noise.keep("dropout", (count, *x.shape[:-1], first.bias.shape[-1]), self.dropout, x)

    def forward(
        self, x: Tensor, *, members: Tensor | None = None, detach: bool = False, keep: Tensor | None = None
    ) -> Tensor:
        """[M, ..., out].

        Args:
            x: [..., in].
            members: int64 [m], run only these; all by default.
            detach: keep gradients from the weights (they still reach the input).
            keep: [m, ..., H] 1 for the units of the first hidden layer that stay, 0 for those dropped (see
                `draw_keep`); all stay without it.
        """

        def pick(parameter: Tensor) -> Tensor:
            parameter = parameter.detach() if detach else parameter
            return parameter if members is None else parameter.index_select(0, members)

        lead = x.shape[:-1]
        hidden = x.reshape(-1, x.shape[-1])
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, EnsembleLinear)
            weight, bias = pick(layer.weight), pick(layer.bias)
            if index == 0:  # all members read the same input: one product, after which they are the second axis
                hidden = affine(hidden, weight.flatten(0, 1), bias.flatten())
                hidden = torch.unflatten(hidden, -1, weight.shape[:2])
                if keep is not None:
                    scaled = keep.reshape(len(weight), *hidden.shape[::2]) / (1.0 - self.dropout)
                    hidden = hidden * scaled.transpose(0, 1)
            else:
                hidden = stacked_affine(hidden, weight, bias)
            if layer.norm_weight is not None and layer.norm_bias is not None:
                norm_weight, norm_bias = pick(layer.norm_weight), pick(layer.norm_bias)
                if index:
                    norm_weight, norm_bias = norm_weight.unsqueeze(1), norm_bias.unsqueeze(1)
                normed = F.layer_norm(hidden, hidden.shape[-1:])
                hidden = self.activation(torch.addcmul(norm_bias, normed, norm_weight))
            if index == 0:  # the next product reads the members where they are
                hidden = hidden.transpose(0, 1)
        return hidden.reshape(hidden.shape[0], *lead, hidden.shape[-1])
