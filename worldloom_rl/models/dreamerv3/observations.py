"""How DreamerV3 reads observations and predicts them: any mix of vectors, categories and images.

Reference: danijar/dreamerv3, rssm.py, Encoder and Decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, OneHot, TensorSpec, Unbounded

from worldloom_rl.functional.precision import at_least_float32, first_weight, precise
from worldloom_rl.functional.scaling import symexp, symlog
from worldloom_rl.kernels.one_hot import one_hot
from worldloom_rl.keys import as_tuple
from worldloom_rl.models.dreamerv3.images import ImageDecoder, ImageEncoder, check_image_size
from worldloom_rl.nn.heads import silu_layers
from worldloom_rl.specs.observations import leaves_of, sort_leaves
from worldloom_rl.world_model import Observation


@dataclass(frozen=True)
class VectorLeaf:
    """An observation leaf of 0 to 2 dimensions: real numbers, or categories (with `classes`), maybe one-hot already."""

    key: NestedKey
    shape: tuple[int, ...]  # without the axis of a one-hot leaf
    classes: int  # 0 for real numbers
    one_hot: bool
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Numbers that enter the encoder, and that the decoder gives."""
        return math.prod(self.shape) * max(self.classes, 1)

    def target(self, value: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """[..., width] what the network sees and predicts, zeros where missing; and [..., 1] bool, what is not missing.

        Real numbers are in symlog space. A step of this leaf is missing where any of its entries is −∞ or −1.
        """
        lead = value.shape[: value.dim() - len(self.shape) - self.one_hot]
        if self.one_hot:
            flat = value.reshape(*lead, -1).to(dtype)
            return flat, torch.ones_like(flat[..., :1], dtype=torch.bool)
        flat = value.reshape(*lead, -1)
        if self.classes:
            present = (flat != -1).all(-1, keepdim=True) if flat.is_signed() else torch.ones_like(flat[..., :1] == 0)
            rows = one_hot(flat.long().clamp(min=0), self.classes).flatten(-2).to(dtype)
            return rows * present, present
        missing = flat.isneginf().any(-1, keepdim=True)
        return symlog(flat.to(dtype).masked_fill(missing, 0.0)), ~missing

    def loss(self, output: Tensor, value: Tensor) -> Tensor:
        """[...] squared error in symlog space, or cross-entropy, summed over the leaf; 0 where missing."""
        target, present = self.target(value, output.dtype)
        if self.classes:
            logits = torch.unflatten(output, -1, (-1, self.classes)).log_softmax(-1)
            error = -(logits.flatten(-2) * target).sum(-1)
        else:
            error = (output - target).square().sum(-1)
        return error * present.squeeze(-1)

    def prediction(self, output: Tensor) -> Tensor:
        """[..., *leaf shape] the predicted observation in its own units; of categories the likeliest."""
        lead = output.shape[:-1]
        if not self.classes:
            return symexp(output).reshape((*lead, *self.shape))
        likeliest = output.reshape((*lead, *self.shape, self.classes)).argmax(-1)
        return one_hot(likeliest, self.classes).to(output.dtype) if self.one_hot else likeliest.to(self.dtype)


@dataclass(frozen=True)
class ImageLeaf:
    """A uint8 image [C, H, W]."""

    key: NestedKey
    channels: int
    height: int
    width: int


def sort_observations(spec: Composite) -> tuple[list[VectorLeaf], list[ImageLeaf]]:
    """The leaves in the order of the spec. Raises ValueError for a leaf that is neither kind, or if there is none."""
    found = sort_leaves(
        leaves_of(spec),
        reader="DreamerV3",
        takes="leaves of up to two dimensions and uint8 images [C, H, W]",
        remedy="Drop the leaf or convert it.",
        vector=lambda leaf: len(leaf.shape) <= 2 + isinstance(leaf, OneHot),
    )
    vectors = [_vector(key, leaf) for key, leaf in found.vectors.items()]
    images = [ImageLeaf(key, *leaf.shape) for key, leaf in found.images.items()]
    for image in images:
        check_image_size(image.height, image.width)
    if not vectors and not images:
        raise ValueError("The observation spec has no leaves; DreamerV3 needs at least one.")
    if len({(image.height, image.width) for image in images}) > 1:
        sizes = {image.key: (image.height, image.width) for image in images}
        raise ValueError(f"DreamerV3 joins images on their channels, so they must be of one size; got {sizes}.")
    return vectors, images


def _vector(key: NestedKey, leaf: TensorSpec) -> VectorLeaf:
    shape = tuple(leaf.shape)
    if type(leaf) is OneHot:
        return VectorLeaf(key, shape[:-1], shape[-1], True, leaf.dtype)
    classes = 0
    if isinstance(leaf, MultiCategorical):
        classes = int(leaf.nvec.max())
    elif isinstance(leaf, Categorical):
        classes = int(leaf.space.n)
    elif leaf.dtype == torch.bool:
        classes = 2
    elif not leaf.dtype.is_floating_point and isinstance(leaf, Bounded) and not isinstance(leaf, Unbounded):
        if int(leaf.space.low.min()) < 0:
            raise ValueError(f"The integer observation {key!r} goes below 0; shift it, or make it real.")
        classes = int(leaf.space.high.max()) + 1
    if not classes and not leaf.dtype.is_floating_point:
        raise ValueError(f"The integer observation {key!r} has no bounds; give it some, or make it real.")
    if classes > 2**12:
        raise ValueError(f"The integer observation {key!r} has {classes} classes; make it real.")
    return VectorLeaf(key, shape, classes, False, leaf.dtype)


def _name(leaf: VectorLeaf | ImageLeaf) -> str:
    return ".".join(as_tuple(leaf.key))


class Encoder(nn.Module):
    """Observations → tokens [..., E]: the vectors' branch, then the images'. Keys join in alphabetical order."""

    def __init__(
        self, vectors: Sequence[VectorLeaf], images: Sequence[ImageLeaf], units: int, layers: int, depth: int
    ) -> None:
        super().__init__()
        self.leaves = sorted(vectors, key=_name)
        self.image_keys = [image.key for image in sorted(images, key=_name)]
        width = sum(leaf.width for leaf in vectors)
        self.vector = silu_layers(width, units, layers) if vectors else None
        self.image = ImageEncoder(sum(image.channels for image in images), depth) if images else None
        self.width = units * bool(vectors)
        if images:
            self.width += ImageEncoder.width(images[0].height, images[0].width, depth)

    def forward(self, observation: Observation) -> Tensor:
        branches = []
        if self.vector is not None:
            dtype = first_weight(self.vector).dtype
            targets = [leaf.target(observation[leaf.key], precise(dtype))[0] for leaf in self.leaves]
            vector = targets[0] if len(targets) == 1 else torch.cat(targets, -1)
            branches.append(self.vector(vector.to(dtype)))
        if self.image is not None:
            branches.append(self.image(torch.cat([observation[key] for key in self.image_keys], -3)))
        return branches[0] if len(branches) == 1 else torch.cat(branches, -1)


class Decoder(nn.Module):
    """The state → raw outputs by key: [..., width] for vectors, [..., C, H, W] in [0, 1] for images.

    The vectors' branch reads the stochastic state before the deterministic one, unlike all heads.
    """

    def __init__(
        self,
        vectors: Sequence[VectorLeaf],
        images: Sequence[ImageLeaf],
        *,
        deterministic: int,
        stochastic: int,
        units: int,
        layers: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.leaves, self.images = list(vectors), list(images)
        self.trunk = silu_layers(stochastic + deterministic, units, layers) if vectors else None
        self.outputs = nn.ModuleList(nn.Linear(units, leaf.width) for leaf in vectors)
        self.image = None
        if images:
            channels = sum(image.channels for image in images)
            self.image = ImageDecoder(
                deterministic, stochastic, units, channels, images[0].height, images[0].width, depth
            )

    @property
    def keys(self) -> list[NestedKey]:
        """The predicted observation keys, in the order of `forward`."""
        return [*(leaf.key for leaf in self.leaves), *(image.key for image in self.images)]

    def forward(self, deterministic: Tensor, stochastic: Tensor) -> dict[NestedKey, Tensor]:
        """From [..., D] and the flat stochastic state, by key in the order vectors, images."""
        outputs: dict[NestedKey, Tensor] = {}
        if self.trunk is not None:
            hidden = self.trunk(torch.cat([stochastic, deterministic], -1))
            for leaf, output in zip(self.leaves, self.outputs, strict=True):
                outputs[leaf.key] = at_least_float32(output(hidden))
        if self.image is not None:
            pieces = self.image(deterministic, stochastic).split([image.channels for image in self.images], -3)
            outputs.update(zip((image.key for image in self.images), pieces, strict=True))
        return outputs

    def predictions(self, outputs: dict[NestedKey, Tensor]) -> dict[NestedKey, Tensor]:
        """Predicted observations in their own units; images are real numbers in [0, 255]."""
        predicted = {leaf.key: leaf.prediction(outputs[leaf.key]) for leaf in self.leaves}
        return {**predicted, **{image.key: 255 * outputs[image.key] for image in self.images}}

    def losses(self, outputs: dict[NestedKey, Tensor], observation: Observation) -> dict[NestedKey, Tensor]:
        """[...] reconstruction error by key, summed over the leaf; images in units of [0, 1]."""
        losses = {leaf.key: leaf.loss(outputs[leaf.key], observation[leaf.key]) for leaf in self.leaves}
        for image in self.images:
            target = observation[image.key].to(outputs[image.key].dtype) / 255
            losses[image.key] = (outputs[image.key] - target).square().sum((-3, -2, -1))
        return losses
