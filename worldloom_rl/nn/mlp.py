"""Perceptrons whose hidden layers are normed: LayerNorm and Mish by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl.kernels.late_bias import affine

Activation = Callable[[Tensor], Tensor]
Norm = Callable[[int], nn.Module]  # a norm over the last axis, built for its width


class Affine(nn.Linear):
    """nn.Linear, compiled as `affine` is."""

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
