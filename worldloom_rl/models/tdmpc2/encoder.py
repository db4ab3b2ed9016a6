"""How TD-MPC2 reads observations: a perceptron for the vectors and the task, convolutions for each image.

Reference: nicklashansen/tdmpc2, common/layers.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, Composite, TensorSpec, Unbounded

from worldloom_rl.functional.augmentation import shift_images
from worldloom_rl.functional.precision import first_weight
from worldloom_rl.keys import as_tuple
from worldloom_rl.models.tdmpc2.config import TDMPC2Config
from worldloom_rl.nn.mlp import MLP
from worldloom_rl.noise import Noise
from worldloom_rl.specs.observations import is_byte_image, leaves_of, sort_leaves
from worldloom_rl.tasks import TaskSet
from worldloom_rl.world_model import Observation

_PIXELS = 64  # height and width of images; the four convolutions leave 4 x 4 of them


class PixelEncoder(nn.Sequential):
    """[B, C, 64, 64] images in [0, 255] → [B, 16 · channels], after a random shift that is always on."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, channels, 7, stride=2), nn.ReLU(),
            nn.Conv2d(channels, channels, 5, stride=2), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=1), nn.Flatten(),
        )  # fmt: skip

    def encode(self, image: Tensor, noise: Noise) -> Tensor:
        """[..., 16 · channels] from images [..., C, 64, 64], each shifted by its own draw."""
        lead = image.shape[:-3]
        weight = first_weight(self)
        shift = noise.integers("shift", 7, (*lead, 2), weight).reshape(-1, 2)
        shifted = shift_images(image.reshape(-1, *image.shape[-3:]).to(weight.dtype), shift)
        features: Tensor = self(shifted / 255.0 - 0.5)
        return features.reshape(*lead, -1)


class Encoder(nn.Module):
    """Observations → raw latent [..., L], to which SimNorm is applied.

    All vectors enter one perceptron (with the task embedding), each image a convolutional branch; n branches are L / n
    wide each and stand side by side. One branch is the reference, several are an extension.
    """

    def __init__(
        self, config: TDMPC2Config, vector_keys: list[NestedKey], vector_width: int, images: dict[NestedKey, int]
    ) -> None:
        super().__init__()
        self.vector_keys = vector_keys
        self.image_keys = list(images)
        branches = bool(vector_keys) + len(images)
        width, rest = divmod(config.latent_dim, branches)
        if rest or width % config.simnorm_dim:
            raise ValueError(
                f"latent_dim {config.latent_dim} cannot be shared by {branches} observation branches in groups of "
                f"{config.simnorm_dim}; choose a latent_dim that is a multiple of {branches * config.simnorm_dim}."
            )
        # A number for the whole latent, as the presets have it, is shared by the branches.
        channels = width // 16 if 16 * config.num_channels == config.latent_dim else config.num_channels
        if images and 16 * channels != width:
            raise ValueError(
                f"A pixel branch is 16 · num_channels = {16 * channels} wide, but each of the {branches} branches must "
                f"be {width}: --overrides num_channels={max(width // 16, 1)}, latent_dim a multiple of {16 * branches}."
            )
        task = config.task_dim if config.num_tasks else 0
        hidden = [config.encoder_dim] * max(config.encoder_layers - 1, 1)
        self.state = (
            MLP(vector_width + task, hidden, width, norm_output=True, activation=config.activation)
            if vector_keys
            else None
        )
        self.pixels = nn.ModuleList(PixelEncoder(planes, channels) for planes in images.values())

    def forward(self, observation: Observation, task: Tensor | None, noise: Noise) -> Tensor:
        branches = []
        if self.state is not None:
            dtype = first_weight(self.state).dtype
            vectors = [observation[key].to(dtype) for key in self.vector_keys]
            branches.append(self.state(torch.cat([*vectors, *([] if task is None else [task])], -1)))
        for key, encoder in zip(self.image_keys, self.pixels, strict=True):
            assert isinstance(encoder, PixelEncoder)
            branches.append(encoder.encode(observation[key], noise))
        return branches[0] if len(branches) == 1 else torch.cat(branches, -1)


class Observed(NamedTuple):
    """What a TD-MPC2 observes."""

    vectors: dict[NestedKey, TensorSpec]
    images: dict[NestedKey, TensorSpec]
    task_key: NestedKey | None  # with several tasks


def sort_observations(spec: Composite, num_tasks: int) -> Observed:
    """The vector leaves, the image leaves and the key of the task. Raises ValueError for any other leaf."""
    leaves = leaves_of(spec)
    tasks = [key for key, leaf in leaves.items() if as_tuple(key)[-1] == "task" and not leaf.shape] if num_tasks else []
    vectors, images = sort_leaves(
        {key: leaf for key, leaf in leaves.items() if key not in tasks},
        reader="TD-MPC2",
        takes=f"real vectors [n], uint8 images [C, {_PIXELS}, {_PIXELS}] and, with several tasks, an integer 'task' "
        "without dimensions",
        remedy="Drop the leaf, or convert it with a transform such as FlattenObservation.",
        image=lambda leaf: is_byte_image(leaf) and tuple(leaf.shape[1:]) == (_PIXELS, _PIXELS),
    )
    if not vectors and not images:
        raise ValueError("The observation spec has neither a vector nor an image; TD-MPC2 needs at least one.")
    if num_tasks and not tasks:
        raise ValueError("A multi-task TD-MPC2 needs an integer observation 'task'; the observation spec has none.")
    if num_tasks and images:
        raise ValueError("TD-MPC2 learns several tasks from vectors only; the observation spec has images.")
    return Observed(vectors, images, tasks[-1] if tasks else None)


def specs_of_tasks(tasks: TaskSet) -> tuple[Composite, Composite]:
    """What an agent of these tasks observes, padded and with the task's number, and its actions in [-1, 1]."""
    return (
        Composite(
            observation=Unbounded((tasks.observation_width,)),
            task=Categorical(len(tasks), shape=(), dtype=torch.int64),
        ),
        Composite(action=Bounded(-1.0, 1.0, shape=(tasks.action_width,), dtype=torch.float32)),
    )


def make_task_embedding(config: TDMPC2Config) -> nn.Embedding:
    """[tasks, D], learned within norm 1, or fixed."""
    fixed = config.fixed_task_embedding
    return nn.Embedding(config.num_tasks, config.task_dim, max_norm=None if fixed else 1.0).requires_grad_(not fixed)
