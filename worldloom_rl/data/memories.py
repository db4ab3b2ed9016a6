"""What was seen, recalled by the nearest latent: how a model without a decoder shows what it imagines."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from worldloom_rl.keys import GOAL
from worldloom_rl.world_model import Latent, WorldModel

LABEL = "nearest memory, not a prediction"
SeenT = TypeVar("SeenT")


class Recalled(NamedTuple, Generic[SeenT]):
    """What was seen at the nearest latents, and how far these are: 1 is how far two memories at random are."""

    seen: list[SeenT]
    distance: Tensor  # [N]


class Memories(Generic[SeenT]):
    """A library of latents and what was seen there, such as rendered frames.

    Args:
        model: whose latents they are.
        most: memories kept; of more, the oldest are forgotten.
    """

    def __init__(self, model: WorldModel, most: int = 4096) -> None:
        self.model, self.most = model, most
        self._seen: list[SeenT] = []
        self._features = torch.empty(0)  # [most, F], of which the first ones are used
        self._added = 0

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, latent: Latent, seen: SeenT) -> None:
        """Keeps what was seen at a latent without batch dimensions."""
        features, place = memory_features(self.model, latent).float(), self._added % self.most
        if not self._seen:
            self._features = features.new_empty(self.most, len(features))
        self._features[place] = features
        self._seen[place : place + 1] = [seen]
        self._added += 1

    def recall(self, latent: Latent) -> Recalled[SeenT]:
        """What was seen at the memory nearest to each of N latents [N, …]. Raises ValueError if nothing was seen."""
        if not self._seen:
            raise ValueError("There are no memories to recall: add latents with what was seen there first.")
        library = self._features[: len(self._seen)]
        spread = (2 * library.var(0, unbiased=False).sum()).sqrt()
        distance, place = torch.cdist(memory_features(self.model, latent).float(), library).min(-1)
        return Recalled([self._seen[number] for number in place.tolist()], distance / spread.clamp(min=1e-12))


def memory_features(model: WorldModel, latent: Latent) -> Tensor:
    """[..., F] what tells a latent from others: its features, those of its goal left out, which is no part of where it
    is."""
    if GOAL in latent:
        latent = {**latent, GOAL: torch.zeros_like(latent[GOAL])}
    return model.latent_features(latent)
