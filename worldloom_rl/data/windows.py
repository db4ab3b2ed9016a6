"""Batches of windows straight from recorded episodes, without a replay: what a batch costs is its gather."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from worldloom_rl.data.episodes import Episodes


class Draw(Protocol):
    """By which law windows are drawn from episodes that do not change."""

    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        """[number] numbers of first rows."""
        ...


class ByEpisode:
    """An episode uniformly, then a start uniformly among its windows (TD-MPC2).

    Episodes shorter than a window are never drawn. A draw takes one integer and one real number of each window, all
    integers first.
    Reference: the SliceSampler of tdmpc2 common/buffer.py.

    Args:
        lengths: [E] rows of each episode.
        window: L, rows of a window.
    Raises ValueError if no episode is long enough.
    """

    def __init__(self, lengths: Tensor, window: int) -> None:
        fits = lengths >= window
        if not bool(fits.any()):
            raise ValueError(f"No episode has the {window} rows of a window; the longest has {_longest(lengths)}.")
        self._firsts = (lengths.cumsum(0) - lengths)[fits]
        self._starts = lengths[fits] - window + 1  # of each episode

    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        episode = torch.randint(len(self._firsts), (number,), generator=generator)
        return self.first_rows(episode, torch.rand(number, generator=generator))

    def first_rows(self, episode: Tensor, uniform: Tensor) -> Tensor:
        """[B] first rows of windows.

        Args:
            episode: [B] places among the episodes that are long enough.
            uniform: [B] numbers in [0, 1).
        """
        starts = self._starts[episode]
        start = (uniform * starts).floor().long()
        return self._firsts[episode] + torch.minimum(start, starts - 1)  # a product of float32 may reach the end


class ByWindow:
    """Uniform over all windows, across ends of episodes, as if they were one stream (DreamerV3).

    Reference: dreamerv3 embodied/core/selectors.py, Uniform.
    """

    def __init__(self, lengths: Tensor, window: int) -> None:
        self._starts = int(lengths.sum()) - window + 1
        if self._starts < 1:
            raise ValueError(f"{int(lengths.sum())} rows in all are fewer than the {window} of a window.")

    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        return torch.randint(self._starts, (number,), generator=generator)


class Windows:
    """Windows [B, L] of rows that follow each other in recorded episodes.

    Args:
        episodes: those that cannot be drawn from at random are read into memory.
        window: L, rows of a window.
        batch_size: B, windows of a batch.
        generator: of all draws; torch's own by default. Its state is all that a checkpoint needs.
        law: by which windows are drawn, made with the episodes' lengths and L.
    Raises ValueError if there is no window.

    Example:
        >>> import torch
        >>> from worldloom_rl.data.windows import ByEpisode
        >>> law = ByEpisode(lengths=torch.tensor([3, 5]), window=3)
        >>> law.first_rows(torch.tensor([0, 1, 1]), torch.tensor([0.9, 0.0, 0.9])).tolist()
        [0, 3, 5]
    """

    def __init__(
        self,
        episodes: Episodes,
        window: int,
        batch_size: int,
        generator: torch.Generator | None = None,
        law: Callable[[Tensor, int], Draw] = ByEpisode,
    ) -> None:
        self.law = law(episodes.lengths, window)
        self.episodes = episodes.kept()
        self.window, self.batch_size, self.generator = window, batch_size, generator

    def sample(self, batch_size: int | None = None) -> TensorDict:
        """Rows [B, L], as `Episodes.rows` gives them."""
        first = self.law.draw(self.batch_size if batch_size is None else batch_size, self.generator)
        return self.episodes.rows(first.unsqueeze(-1) + torch.arange(self.window))


def _longest(lengths: Tensor) -> int:
    return int(lengths.max()) if len(lengths) else 0
