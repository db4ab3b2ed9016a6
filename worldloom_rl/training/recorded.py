"""Rows of recorded episodes, there from the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tensordict import TensorDictBase
from torchrl.data import Composite

from worldloom_rl.data import Arrivals, Episodes, Replay, open_episodes
from worldloom_rl.data.filling import fill
from worldloom_rl.data.laws import WindowLaw
from worldloom_rl.torchrl_insides import sampling_state, set_sampling_state
from worldloom_rl.training.collection import load_generators, save_generators
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.recorded_windows import wider_than_read
from worldloom_rl.training.replay import make_replay
from worldloom_rl.training.source import ReplaySource, Saved
from worldloom_rl.world_model import WorldModel


def split(episodes: Episodes, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the episodes that are learned from, and of those held out; none of a single one.

    Args:
        held_out: share of the episodes, at least one unless it is 0.
    """
    total = len(episodes.lengths)
    count = min(total - 1, max(1, round(held_out * total))) if held_out else 0
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[count:]), sorted(order[:count])


def open_as_seen(
    sources: Sequence[str],
    env: str,
    observation_spec: Composite,
    action_spec: Composite,
    image_size: int | None = None,
) -> Episodes:
    """The recorded episodes of an environment, whose rows hold what it shows and takes.

    Args:
        image_size: rows and columns of its rendered images.
    Raises ValueError, FileNotFoundError or ImportError if there are none, or they are not of this environment.
    """
    episodes = open_episodes(sources, (env,), image_size, action_specs={env: action_spec})
    if wider := wider_than_read(episodes, observation_spec, action_spec):
        raise ValueError(
            f"{episodes.source} has wider rows than {env}, which gives {wider} numbers: they are padded for several "
            "tasks, from which tdmpc2 learns."
        )
    return episodes


class Recorded(ReplaySource):
    """A replay filled with recorded episodes. Checkpoints leave the rows where they came from, and keep a digest.

    Args:
        replay: empty.
        numbers: of the episodes to learn from.
        told: what is learned from, for people.
        latent_spec: of the model's latents, where arrivals have them.
    Raises ValueError if they do not all fit.
    """

    collects = False
    folder = "replay"  # of the rows, in a checkpoint and in the run directory

    def __init__(
        self,
        replay: Replay,
        arrivals: Arrivals,
        episodes: Episodes,
        numbers: Sequence[int],
        told: str = "",
        latent_spec: Composite | None = None,
    ) -> None:
        super().__init__(replay)
        self._told = told or f"{len(numbers)} episodes of {episodes.source}"
        self._name = episodes.source
        try:
            self.digest = fill(replay, arrivals, episodes, numbers, latent_spec)
        except BaseException:
            self.close()
            raise

    @property
    def window(self) -> int:
        """Rows of a window."""
        return self.replay.window  # type: ignore[no-any-return]

    def collect(self) -> None:
        return None

    def add(self, transitions: TensorDictBase) -> None:
        raise RuntimeError(f"{self._name} is recorded: nothing is added to it.")

    def save(self, directory: Path) -> Saved:
        save_generators(directory)
        sampling = sampling_state(self.replay)
        return {"digest": self.digest, "sampling": sampling, "running_returns": torch.zeros(1), "episode_returns": []}

    def load(self, directory: Path, saved: Saved, seed: int) -> str:
        if saved["digest"] != self.digest:
            raise ValueError(
                f"{self._name} holds other episodes than when the run began; put those back, or start a new run."
            )
        set_sampling_state(self.replay, saved["sampling"])
        load_generators(directory)
        return "."

    def __str__(self) -> str:
        return self._told


class RecordedWithLatents(Recorded):
    """The same for models that write latents back to rows: a checkpoint keeps the rows with them."""

    def save(self, directory: Path) -> Saved:
        self.replay.save(directory / self.folder)
        return super().save(directory)

    def moved(self, directory: Path) -> None:
        self.replay.moved(directory / self.folder)

    def load(self, directory: Path, saved: Saved, seed: int) -> str:
        told = super().load(directory, saved, seed)
        self.replay.load(directory / self.folder)
        set_sampling_state(self.replay, saved["sampling"])
        return told


def record_all(
    config: RunConfig,
    sources: Sequence[str],
    model: WorldModel,
    specs: tuple[Composite, Composite],
    kind: type[Recorded] = Recorded,
    *,
    window: int,
    batch_size: int,
) -> Recorded:
    """All recorded episodes of a run's environment, of whose windows each is drawn as often as any other.

    Args:
        specs: of the observations and actions of the environment.
        kind: `RecordedWithLatents` for a model that writes latents back.
    Raises what `open_as_seen` does, and ValueError if they do not all fit.
    """
    episodes = open_as_seen(sources, config.env, *specs, config.rendered_size)
    latent_keys = model.latent_keys if issubclass(kind, RecordedWithLatents) else ()
    arrivals = Arrivals(model.observation_keys, model.action_keys, latent_keys)
    rows = int(episodes.lengths.sum())
    replay = make_replay(
        config, model, arrivals, window=window, batch_size=batch_size, by=WindowLaw, rows=rows, scratch=kind.folder
    )
    return kind(replay, arrivals, episodes, range(len(episodes.lengths)), str(episodes), model.latent_spec)
