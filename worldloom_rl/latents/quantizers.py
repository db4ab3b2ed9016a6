"""What vectors are quantised by: codes that learn by gradients, codes that follow running means, or a fixed grid.

Each is a description; the module that it makes, of vector-quantize-pytorch, holds the tensors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl import ranks
from worldloom_rl.extras import require


class Quantized(NamedTuple):
    """Vectors [..., N, D] as codes."""

    indices: Tensor  # [..., N] int64
    tokens: Tensor  # [..., N, D] their embeddings; the gradient passes straight through to the vectors
    errors: dict[str, Tensor]  # [...] by name, those of `Quantizer.errors`


class Quantizer(ABC):
    """How vectors become codes.

    Attributes:
        vocabulary: K, how many codes there are.
        errors: names of what learning minimises: "codebook" is the mean of (sg(z) − e)², which moves the codes;
            "commitment" the mean of (z − sg(e))², which holds vectors to their codes.
    """

    vocabulary: int
    errors: ClassVar[tuple[str, ...]]

    @abstractmethod
    def make(self, width: int) -> nn.Module:
        """The library's module for codes of that width. Raises ImportError, naming the extra, without the library."""

    @abstractmethod
    def codebook(self, module: nn.Module) -> Tensor:
        """[K, D] the embedding of every code."""

    @abstractmethod
    def quantize(self, module: nn.Module, rows: Tensor, learn: bool) -> Quantized:
        """The nearest codes of rows [R, N, D]; see `CodebookLatent.quantize`."""


class _Codes(Quantizer):
    """K vectors of which the nearest is taken."""

    def __init__(self, vocabulary: int = 512) -> None:
        self.vocabulary = vocabulary

    def codebook(self, module: nn.Module) -> Tensor:
        untyped: Any = module
        codes: Tensor = untyped._codebook.embed[0]
        return codes

    def _make(self, width: int, **options: float | bool) -> nn.Module:
        # What the library would choose otherwise, the rotation trick for one, changes the gradient.
        made: nn.Module = _library().VectorQuantize(
            dim=width,
            codebook_size=self.vocabulary,
            eps=1e-5,
            commitment_weight=0.0,  # both errors are computed here, unreduced
            kmeans_init=False,
            threshold_ema_dead_code=0,
            use_cosine_sim=False,
            stochastic_sample_codes=False,
            straight_through=False,
            rotation_trick=False,
            directional_reparam=False,
            sync_codebook=ranks.count() > 1,
            affine_param=False,
            **options,
        )
        return made

    @staticmethod
    def _nearest(module: nn.Module, rows: Tensor, codebook: Tensor, learn: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Indices, codes and tokens of rows by the codebook. The library moves its means in training mode only."""
        module.train(learn)
        with torch.no_grad():
            _, indices, _ = module(rows.detach())
        codes = F.embedding(indices, codebook)
        return indices, codes, codes.detach() + (rows - rows.detach())


class LearnedCodes(_Codes):
    """Codes that learn by gradients. Reference: van den Oord et al. 2017 (arXiv:1711.00937), VQ-VAE."""

    errors = ("codebook", "commitment")

    def make(self, width: int) -> nn.Module:
        return self._make(width, learnable_codebook=True, ema_update=False)

    def quantize(self, module: nn.Module, rows: Tensor, learn: bool) -> Quantized:
        indices, codes, tokens = self._nearest(module, rows, self.codebook(module), learn=False)
        errors = {"codebook": _mean_square(rows.detach() - codes), "commitment": _mean_square(rows - codes.detach())}
        return Quantized(indices, tokens, errors)


class AveragedCodes(_Codes):
    """Codes that follow the running means of the vectors they stand for.

    Args:
        decay: share of the running means that stays.
    Reference: van den Oord et al. 2017 (arXiv:1711.00937), VQ-VAE, appendix.
    """

    errors = ("commitment",)

    def __init__(self, vocabulary: int = 512, decay: float = 0.99) -> None:
        super().__init__(vocabulary)
        self.decay = decay

    def make(self, width: int) -> nn.Module:
        return self._make(width, decay=self.decay, learnable_codebook=False, ema_update=True)

    def quantize(self, module: nn.Module, rows: Tensor, learn: bool) -> Quantized:
        # A copy: the means move after the rows were read by the codes as they were.
        indices, codes, tokens = self._nearest(module, rows, self.codebook(module).clone(), learn)
        return Quantized(indices, tokens, {"commitment": _mean_square(rows - codes.detach())})


class FixedGrid(Quantizer):
    """A fixed grid of a few numbers, between two linear layers if D is another number.

    Args:
        levels: how many values each number of the grid takes; K is their product.
    Reference: Mentzer et al. 2023 (arXiv:2309.15505), FSQ.
    """

    errors = ()

    def __init__(self, levels: Sequence[int] = (8, 5, 5, 5)) -> None:
        if not levels or min(levels) < 3:
            raise ValueError(f"Each number of a finite scalar quantiser takes at least 3 values, got levels {levels}.")
        self.levels = tuple(levels)
        self.vocabulary = math.prod(levels)

    def make(self, width: int) -> nn.Module:
        # Its constructor computes the grid, which the meta device cannot.
        device = torch.empty(0).device
        with torch.device("cpu"):
            grid: nn.Module = _library().FSQ(
                levels=list(self.levels),
                dim=width,
                num_codebooks=1,
                keep_num_codebooks_dim=False,
                channel_first=False,
                projection_has_bias=True,
                return_indices=True,
                force_quantization_f32=True,
                preserve_symmetry=False,
                noise_dropout=0.0,
                bound_hard_clamp=False,
                orthogonal_rotation=False,
            )
        return grid.to(device)

    def codebook(self, module: nn.Module) -> Tensor:
        untyped: Any = module
        codes: Tensor = untyped.project_out(untyped.implicit_codebook)
        return codes

    def quantize(self, module: nn.Module, rows: Tensor, learn: bool) -> Quantized:
        soft, indices = module(rows)
        indices = indices.long()
        # The library rounds with a straight-through gradient, which the layers around the grid pass on.
        tokens = F.embedding(indices, self.codebook(module).detach()) + (soft - soft.detach())
        return Quantized(indices, tokens, {})


def _mean_square(error: Tensor) -> Tensor:
    """[R] of [R, N, D]."""
    return error.square().mean((-2, -1))


def _library() -> ModuleType:
    why = "Codebook latents need vector-quantize-pytorch"
    return require("vector_quantize_pytorch", extra="tokens", why=why)
