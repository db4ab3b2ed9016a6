"""Discrete tokens with a learned or a fixed codebook: vector quantisation (VQ-VAE) and finite scalar quantisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrl.data import Categorical, Composite, Unbounded

from worldloom_rl.extras import require
from worldloom_rl.noise import Noise

QUANTIZERS = ("vq", "vq-ema", "fsq")


class Quantized(NamedTuple):
    """Vectors [..., N, D] as codes."""

    indices: Tensor  # [..., N] int64
    tokens: Tensor  # [..., N, D] their embeddings; the gradient passes straight through to the vectors
    codebook_error: Tensor | None  # [...] mean of (sg(z) − e)², which moves the codes; of "vq" only
    commitment_error: Tensor | None  # [...] mean of (z − sg(e))², which holds vectors to their codes; not of "fsq"


class CodebookLatent(nn.Module):
    """N tokens, each one of K codes of width D: the leaves "codebook_indices" [N] and "tokens" [N, D] of a latent.

    Unlike a `LatentSpace`, which is one leaf, these are two that agree: tokens are the embeddings of the indices, bit
    for bit. The quantisers are those of vector-quantize-pytorch.

    Args:
        count: N.
        width: D.
        quantizer: "vq", codes that learn by gradients; "vq-ema", codes that follow the running mean of the vectors
            they stand for; "fsq", a fixed grid of a few numbers, between two linear layers if D is another number.
        vocabulary: K of "vq" and "vq-ema".
        levels: of "fsq", how many values each number of the grid takes; K is their product.
        decay: of "vq-ema", share of the running means that stays.
    Raises ImportError, naming the extra, if vector-quantize-pytorch is missing.
    Reference: van den Oord et al. 2017 (arXiv:1711.00937), VQ-VAE and, in its appendix, running means; Mentzer et al.
        2023 (arXiv:2309.15505), FSQ.
    """

    def __init__(
        self,
        count: int,
        width: int,
        *,
        quantizer: str = "vq",
        vocabulary: int = 512,
        levels: Sequence[int] = (8, 5, 5, 5),
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        if quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer must be one of {QUANTIZERS}, got {quantizer!r}.")
        if quantizer == "fsq" and (not levels or min(levels) < 3):
            raise ValueError(f"Each number of a finite scalar quantiser takes at least 3 values, got levels {levels}.")
        library = _library()
        self.count, self.width = count, width
        self.learned, self.fixed = quantizer == "vq", quantizer == "fsq"
        self.features_width = count * width
        if self.fixed:
            self.vocabulary = math.prod(levels)
            # Its constructor computes the grid, which the meta device cannot.
            device = torch.empty(0).device
            with torch.device("cpu"):
                grid = library.FSQ(
                    levels=list(levels),
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
            self.quantizer: Any = grid.to(device)
        else:
            self.vocabulary = vocabulary
            # What the library would choose otherwise, the rotation trick for one, changes the gradient.
            self.quantizer = library.VectorQuantize(
                dim=width,
                codebook_size=vocabulary,
                decay=decay,
                eps=1e-5,
                commitment_weight=0.0,  # both errors are computed here, unreduced
                kmeans_init=False,
                threshold_ema_dead_code=0,
                use_cosine_sim=False,
                stochastic_sample_codes=False,
                straight_through=False,
                rotation_trick=False,
                directional_reparam=False,
                learnable_codebook=self.learned,
                ema_update=not self.learned,
                sync_codebook=False,
                affine_param=False,
            )

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
        if self.fixed:
            codes: Tensor = self.quantizer.project_out(self.quantizer.implicit_codebook)
            return codes
        return self.quantizer._codebook.embed[0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def set_codebook(self, codebook: Tensor) -> None:
        """Make [K, D] the codes, and the running means start from them. Raises ValueError where that cannot be."""
        if self.fixed or codebook.shape != self.codebook.shape:
            expected = "none, a fixed grid" if self.fixed else tuple(self.codebook.shape)
            raise ValueError(f"The codebook to set has shape {tuple(codebook.shape)}, expected {expected}.")
        self.quantizer._codebook.embed.copy_(codebook.unsqueeze(0))
        self.quantizer._codebook.embed_avg.copy_(codebook.unsqueeze(0))

    def lookup(self, indices: Tensor) -> Tensor:
        """[..., N, D] embeddings of indices [..., N]."""
        return F.embedding(indices, self.codebook)

    def quantize(self, vectors: Tensor, *, learn: bool = False) -> Quantized:
        """The nearest codes of vectors [..., N, D].

        Args:
            learn: move the running means of "vq-ema" after these vectors were read by the codes as they were; the other
                quantisers only learn by gradients.
        """
        rows = vectors.reshape(-1, *vectors.shape[-2:])
        codebook = self.codebook if self.fixed or self.learned else self.codebook.clone()
        if self.fixed:
            soft, indices = self.quantizer(rows)
            indices = indices.long()
            # The library rounds with a straight-through gradient, which the layers around the grid pass on.
            tokens = F.embedding(indices, codebook.detach()) + (soft - soft.detach())
            return self._shaped(vectors, indices, tokens, None, None)
        indices = self._nearest(rows.detach(), learn)
        codes = F.embedding(indices, codebook)
        commitment = (rows - codes.detach()).square().mean((-2, -1))
        moved = (rows.detach() - codes).square().mean((-2, -1)) if self.learned else None
        tokens = codes.detach() + (rows - rows.detach())
        return self._shaped(vectors, indices, tokens, moved, commitment)

    def _nearest(self, rows: Tensor, learn: bool) -> Tensor:
        """[rows, N] indices; the running means move if asked to. The library learns in its training mode only."""
        self.quantizer.train(learn and not self.learned)
        with torch.no_grad():
            _, indices, _ = self.quantizer(rows)
        return indices  # type: ignore[no-any-return]

    @staticmethod
    def _shaped(
        vectors: Tensor, indices: Tensor, tokens: Tensor, codebook_error: Tensor | None, commitment: Tensor | None
    ) -> Quantized:
        lead = vectors.shape[:-2]
        return Quantized(
            indices.reshape(vectors.shape[:-1]),
            tokens.reshape(vectors.shape),
            None if codebook_error is None else codebook_error.reshape(lead),
            None if commitment is None else commitment.reshape(lead),
        )

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
        return logits.float().softmax(-1)

    def _drawn(self, indices: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        codebook = self.codebook.detach()
        mean = probabilities @ codebook
        return indices, F.embedding(indices, codebook) + (mean - mean.detach())

    def features(self, tokens: Tensor) -> Tensor:
        """[..., N · D] the flat view of tokens [..., N, D]."""
        return tokens.flatten(-2)


def _library() -> Any:
    why = "Codebook latents need vector-quantize-pytorch"
    return require("vector_quantize_pytorch", extra="tokens", why=why)
