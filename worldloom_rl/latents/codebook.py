"""Discrete tokens with a learned or a fixed codebook."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrl.data import Categorical, Composite, Unbounded

from worldloom_rl.functional.precision import at_least_float32
from worldloom_rl.latents.quantizers import LearnedCodes, Quantized, Quantizer
from worldloom_rl.noise import Noise


class CodebookLatent(nn.Module):
    """N tokens, each one of K codes of width D: the leaves "codebook_indices" [N] and "tokens" [N, D] of a latent.

    Unlike a `LatentSpace`, which is one leaf, these are two that agree: tokens are the embeddings of the indices, bit
    for bit.

    Args:
        count: N.
        width: D.
        kind: how vectors become codes; by default by 512 codes that learn by gradients.
    Raises ImportError, naming the extra, if vector-quantize-pytorch is missing.
    """

    def __init__(self, count: int, width: int, kind: Quantizer | None = None) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.kind = LearnedCodes() if kind is None else kind
        self.vocabulary = self.kind.vocabulary
        self.features_width = count * width
        self.quantizer = self.kind.make(width)

    def spec(self, batch: Sequence[int] = ()) -> Composite:
        """TorchRL specs of a batch of both leaves."""
        return Composite(
            codebook_indices=Categorical(self.vocabulary, shape=(*batch, self.count), dtype=torch.int64),
            tokens=Unbounded((*batch, self.count, self.width), dtype=torch.float32),
            shape=batch,
        )

    @property
    def codebook(self) -> Tensor:
        """[K, D] the embedding of every code."""
        return self.kind.codebook(self.quantizer)

    def quantize(self, vectors: Tensor, *, learn: bool = False) -> Quantized:
        """The nearest codes of vectors [..., N, D].

        Args:
            learn: move the running means of `AveragedCodes` after these vectors were read by the codes as they were;
                the other quantisers only learn by gradients.
        """
        lead = vectors.shape[:-2]
        found = self.kind.quantize(self.quantizer, vectors.reshape(-1, *vectors.shape[-2:]), learn)
        errors = {name: error.reshape(lead) for name, error in found.errors.items()}
        return Quantized(found.indices.reshape(vectors.shape[:-1]), found.tokens.reshape(vectors.shape), errors)

    def sample(self, logits: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Indices [..., N] drawn token by token from logits [..., N, K], and tokens [..., N, D].

        The tokens' gradient is that of the codes' mean under the probabilities (straight-through).
        """
        probabilities = self._probabilities(logits)
        return self._drawn(noise.category("tokens", probabilities), probabilities)

    def mode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest indices [..., N] under logits [..., N, K], and tokens [..., N, D]; gradients as of `sample`."""
        return self._drawn(logits.argmax(-1), self._probabilities(logits))

    def _probabilities(self, logits: Tensor) -> Tensor:
        if logits.shape[-2:] != (self.count, self.vocabulary):
            raise ValueError(
                f"CodebookLatent expects logits [..., {self.count}, {self.vocabulary}], got {tuple(logits.shape)}."
            )
        return at_least_float32(logits).softmax(-1)

    def _drawn(self, indices: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        codebook = self.codebook.detach()
        mean = probabilities.to(codebook.dtype) @ codebook
        return indices, F.embedding(indices, codebook) + (mean - mean.detach())

    def features(self, tokens: Tensor) -> Tensor:
        """[..., N · D] the flat view of tokens [..., N, D]."""
        return tokens.flatten(-2)
