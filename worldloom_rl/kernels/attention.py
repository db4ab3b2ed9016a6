"""Attention whose forward derivatives and second derivatives can be taken.

Equals: `torch.nn.functional.scaled_dot_product_attention`, whose fused kernels have first derivatives only.
Taken: always; under torch.func (vmap, jvp, hessian, …) in its plain form, elsewhere fused.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from worldloom_rl.kernels.transforms import transformed


def differentiable_attention() -> AbstractContextManager[None]:
    """Where attention takes its plain form under torch.func; for modules of other libraries."""
    return sdpa_kernel(SDPBackend.MATH) if transformed() else nullcontext()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """[..., L, D] softmax(Q Kᵀ / √D) V of [..., L, D]; a row sees the columns where the mask [L, L] is True."""
    with differentiable_attention():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
