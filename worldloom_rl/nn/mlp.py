"""Perceptrons whose hidden layers are normed: LayerNorm and Mish by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
Norm = Callable[[int], nn.Module]  # a norm over the last axis, built for its width


def adds_bias_later(x: Tensor) -> bool:
    """Whether a product of rows x leaves its bias to what follows, which torch.compile joins to it.

    It does so compiled for a CPU, without a gradient. By itself torch.compile makes one call of product and bias, which
    first copies the bias to every row.
    """
    rows = x[..., 0].numel()
    return torch.compiler.is_compiling() and not torch.is_grad_enabled() and x.device.type == "cpu" and rows > 1


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[..., outputs] W x + b."""
    if not adds_bias_later(x):
        return F.linear(x, weight, bias)
    outputs = weight.shape[0]
    if outputs % 8:  # a product of 101 columns takes longer than one of 104
        weight = F.pad(weight, (0, 0, 0, -outputs % 8))
    product = torch.bmm(x.reshape(1, -1, x.shape[-1]), weight.t().unsqueeze(0))
    return product.reshape(*x.shape[:-1], -1)[..., :outputs] + bias


class Affine(nn.Linear):
    """nn.Linear, as `affine` computes it."""

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight, self.bias)


class NormedLinear(nn.Linear):
    """activation(norm(W x + b)); without an activation just the normed map."""

    def __init__(self, inputs: int, outputs: int, activation: Activation | None, *, norm: Norm = nn.LayerNorm) -> None:
        super().__init__(inputs, outputs)
        self.norm = norm(outputs)
        self.activation = activation

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """See `MLP.forward`."""
        if shared is None:
            x = affine(x, self.weight, self.bias)
        else:
            width = shared.shape[-1]
            own = F.linear(x, self.weight[:, width:])
            x = own + F.linear(shared, self.weight[:, :width], self.bias).unsqueeze(-2)
        x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class MLP(nn.Sequential):
    """Hidden NormedLinear layers, then a plain linear layer, or a normed one without activation.

    Args:
        hidden: widths of the hidden layers.
        norm_output: a norm after the last layer too, as before TD-MPC2's SimNorm.
        output_activation: what follows that norm.
        activation, norm: of the hidden layers; no activation where the norm has one of its own.
    Reference: tdmpc2 common/layers.py, mlp.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        norm_output: bool = False,
        output_activation: Activation | None = None,
        activation: Activation | None = F.mish,
        norm: Norm = nn.LayerNorm,
    ) -> None:
        widths = [inputs, *hidden]
        layers: list[nn.Module] = [NormedLinear(i, o, activation, norm=norm) for i, o in pairwise(widths)]
        if norm_output:
            layers.append(NormedLinear(widths[-1], outputs, output_activation, norm=norm))
        else:
            layers.append(Affine(widths[-1], outputs))
        super().__init__(*layers)

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """[..., outputs] of x [..., inputs].

        Args:
            shared: [B, S], the same first S inputs of N rows each; x [B, N, inputs − S] holds the others. The first
                layer's product with them is computed once.
        """
        first, *others = self
        x = first(x) if shared is None else first(x, shared)
        for layer in others:  # torch.compile would leave out nn.Sequential's own loop
            x = layer(x)
        return x
