"""CUDA graphs: work of many small kernels, captured once and from then on started by a single call.

At the sizes of most world models a GPU waits for the CPU to start its kernels. Capturing needs what the models keep to
anyway: shapes that stay, and no look at a number on the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import CudaGraphModule, TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, exploration_type

CALLS_BEFORE = 3  # as usual, among them whatever torch.compile builds


def capture(function: Callable[[TensorDictBase], TensorDictBase]) -> Callable[[TensorDictBase], TensorDictBase]:
    """The function as a CUDA graph after three calls as it is: tensordicts on the GPU of the same keys and shapes.

    What it does besides kernels happens in the first calls only; in particular gradients are to be new tensors (set
    them to None before) and stay where they are.
    """
    return _module(function, in_keys=[], out_keys=[])


def _module(function: Callable[..., object], **keys: list[NestedKey]) -> CudaGraphModule:
    with warnings.catch_warnings():
        # It takes tensordicts out of torch's pytrees, which nothing here relies on.
        warnings.filterwarnings("ignore", "Tensordict is registered in PyTree", UserWarning)
        return CudaGraphModule(function, warmup=CALLS_BEFORE, **keys)


class CapturedPolicy(TensorDictModuleBase):  # type: ignore[misc]
    """A policy on a GPU that acts by CUDA graphs: one for every exploration type and batch shape that it meets."""

    def __init__(self, policy: TensorDictModuleBase) -> None:
        super().__init__()
        self.policy = policy
        self.in_keys, self.out_keys = policy.in_keys, policy.out_keys
        self._graphs: dict[tuple[ExplorationType | None, torch.Size], CudaGraphModule] = {}

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        kind = (exploration_type(), tensordict.batch_size)
        if kind not in self._graphs:
            self._graphs[kind] = _module(self.policy)
        acted = self._graphs[kind](tensordict.select(*self.in_keys))
        return tensordict.update(acted.select(*self.out_keys), clone=True)  # the next call writes over the graph's own
