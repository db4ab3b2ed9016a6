"""Perceptrons with LayerNorm and Mish."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class NormedLinear(nn.Linear):
    """LayerNorm(W x + b), followed by Mish unless `activate` is False."""

    def __init__(self, inputs: int, outputs: int, *, activate: bool = True) -> None:
        super().__init__(inputs, outputs)
        self.norm = nn.LayerNorm(outputs)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.linear(x, self.weight, self.bias))
        return F.mish(x) if self.activate else x


class MLP(nn.Sequential):
    """Hidden NormedLinear layers with Mish, then a plain linear layer, or a normed one without activation.

    Args:
        hidden: widths of the hidden layers.
        norm_output: LayerNorm after the last layer, as before TD-MPC2's SimNorm.
    Reference: tdmpc2 common/layers.py, mlp.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, *, norm_output: bool = False) -> None:
        widths = [inputs, *hidden]
        layers: list[nn.Module] = [NormedLinear(i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)]
        if norm_output:
            layers.append(NormedLinear(widths[-1], outputs, activate=False))
        else:
            layers.append(nn.Linear(widths[-1], outputs))
        super().__init__(*layers)
