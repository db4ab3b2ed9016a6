"""Initial weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldloom_rl.nn.block_linear import BlockLinear
from worldloom_rl.nn.heads import ActionHead, TwoHotHead

_POLICY_OUTPUT = 0.01  # scale of the weights that give means, deviations and logits of actions
_UNIT_STD = 1.1368  # over the standard deviation of a normal that is cut at ±2; rounded as in the official code


@torch.no_grad()
def truncated_normal_(weight: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """The weight, filled with normal numbers of standard deviation scale/√fan_in, none beyond twice that (× 1.1368).

    Args:
        fan_in: how many numbers enter the layer; of a block-diagonal one all blocks' inputs together.
        scale: 0 gives zeros.
    Reference: dreamerv3 embodied/jax/nets.py, Initializer 'trunc_normal' with fan 'in'.
    """
    if fan_in < 1:
        raise ValueError(f"truncated_normal_ expects a positive fan_in, got {fan_in}.")
    nn.init.trunc_normal_(weight, mean=0.0, std=1.0, a=-2.0, b=2.0)
    return weight.mul_(_UNIT_STD * scale / math.sqrt(fan_in))


def initialise_layers(root: nn.Module) -> None:
    """Fills all layers below as DreamerV3 does: truncated normals by fan-in, biases 0.

    Outputs of two-hot heads start at 0, so that they predict 0, and those of the policy small. Norms stay as they are.
    """
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            truncated_normal_(module.weight, module.weight[0].numel())
        elif isinstance(module, BlockLinear):
            truncated_normal_(module.weight, module.fan_in)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in root.modules():
        if isinstance(module, TwoHotHead):
            nn.init.zeros_(module.output.weight)
        elif isinstance(module, ActionHead):
            for output in module.children():
                assert isinstance(output, nn.Linear)
                truncated_normal_(output.weight, output.in_features, _POLICY_OUTPUT)
