"""The source of a run whose rows actors collect, while the learner learns from what they brought before."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import ExitStack
from math import ceil
from pathlib import Path

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.envs import EnvBase

from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.keys import DONE, IS_INIT, REWARD, STREAM, TERMINATED, TRUNCATED, as_tuple
from worldloom_rl.torchrl_insides import sampling_state, set_sampling_state
from worldloom_rl.training.actor import Start, Work
from worldloom_rl.training.actors import Actors
from worldloom_rl.training.collection import load_generators, save_generators
from worldloom_rl.training.options import LARGEST_SEED, ActorsRunConfig
from worldloom_rl.training.ray_tasks import cluster
from worldloom_rl.training.source import Collected, ReplaySource, Saved, make_collector
from worldloom_rl.world_model import WorldModel

_REPLAY = "replay"  # in a checkpoint
_NOTES = "actors"  # in the run directory
_TURN = 1.0  # seconds that the loop waits for a batch before it looks around
_NONE = TensorDict({"next": {TERMINATED: torch.zeros(0, 1, dtype=torch.bool)}}, [0])


def collecting(
    config: ActorsRunConfig,
    env: EnvBase,
    make_env: Callable[[int], EnvBase],
    model: WorldModel,
    arrivals: Arrivals,
    replay: Replay,
    random_steps: int | None = None,
) -> ReplaySource:
    """What collects with the model's policy, in this process or in actors, as the run was told.

    Args:
        env: environments as they are collected in.
        make_env: of a seed, such environments for an actor.
        random_steps: agent steps whose actions are drawn at random before the policy acts.
    """
    if config.actors:
        return CollectedByActors(config, env, make_env, model, arrivals, replay, random_steps or 0)
    collector = make_collector(config, env, model.make_policy(), init_random_frames=random_steps)
    return Collected(replay, arrivals, collector, env.batch_size.numel())


class CollectedByActors(ReplaySource):
    """Batches of actors, as they come, in a replay. The model's weights go to them every `actor_updates` updates.

    Each call of `sample` counts as an update. Where no batch comes for a while, `collect` brings none, so that whoever
    waits sees how things stand, and can stop.

    Args:
        env: never stepped: it says what the actors' are like.
        replay: empty.
    """

    collects = True

    def __init__(
        self,
        config: ActorsRunConfig,
        env: EnvBase,
        make_env: Callable[[int], EnvBase],
        model: WorldModel,
        arrivals: Arrivals,
        replay: Replay,
        random_steps: int,
    ) -> None:
        super().__init__(replay)
        self.arrivals, self.environment = arrivals, env
        self.running_returns = torch.zeros(config.actors * env.batch_size.numel())
        self.episode_returns: list[float] = []
        self._config, self._model, self._random_steps = config, model, random_steps
        self._steps = self._updates = 0
        self._sent: int | None = None  # updates when the weights were sent last
        self._waited = 0.0  # seconds
        work = Work(
            config=config,
            make_env=make_env,
            model=copy.deepcopy(model).cpu(),  # of its first weights nothing is used
            keys=_wanted(arrivals),
            notes=str(Path(config.run_directory or ".") / _NOTES),
        )
        with ExitStack() as opened:
            # Ray takes SIGTERM for itself here; the run takes it back when it begins.
            ray = opened.enter_context(cluster(config.ray, who="Actors", option="--ray", store=None)).ray
            self.actors = Actors(ray, work, self._start, own=config.ray is None)
            opened.callback(self.actors.close)
            self._open = opened.pop_all()

    def _start(self, number: int, before: int) -> Start:
        """No draws come twice, where an actor is replaced or the run goes on neither."""
        seed = np.random.SeedSequence((self._config.seed, number, before, self._steps)).generate_state(1)[0]
        batch = self._config.actor_steps * len(self.running_returns) // self._config.actors
        left = max(0, self._random_steps - self._steps) / self._config.actors
        return Start(int(seed) % LARGEST_SEED, ceil(left / batch) * batch)  # whole batches, as collectors ask for

    def sample(self, number: int | None = None) -> TensorDictBase:
        self._updates += 1
        return super().sample(number)

    def collect(self) -> TensorDictBase:
        if self._sent is None or self._updates - self._sent >= self._config.actor_updates:
            # As arrays, which Ray's processes share; it copies tensors byte by byte.
            weights = {name: each.detach().cpu().numpy() for name, each in self._model.state_dict().items()}
            self.actors.send(weights, self._updates)
            self._sent = self._updates
        begin = time.monotonic()
        batch = self.actors.next(_TURN)
        self._waited += time.monotonic() - begin
        return _NONE if batch is None else batch

    def add(self, transitions: TensorDictBase) -> None:
        if not transitions.batch_size.numel():
            return
        self.replay.extend(self.arrivals(transitions))
        self._steps += transitions.batch_size.numel()
        streams = transitions[STREAM][:, 0]
        for step in transitions.unbind(1):
            self.running_returns[streams[step[IS_INIT].reshape(-1)]] = 0.0
            self.running_returns[streams] += step["next", REWARD].reshape(-1)
            over = streams[step["next", DONE].reshape(-1)]
            self.episode_returns += self.running_returns[over].tolist()

    def save(self, directory: Path) -> Saved:
        self.replay.save(directory / _REPLAY)
        save_generators(directory)
        return {
            "sampling": sampling_state(self.replay),
            "episode_returns": self.episode_returns,
            "actors": {"steps": self._steps, "updates": self._updates, "waited": self._waited},
        }

    def moved(self, directory: Path) -> None:
        self.replay.moved(directory / _REPLAY)

    def load(self, directory: Path, saved: Saved, seed: int) -> str:
        self.episode_returns = saved["episode_returns"]
        self._steps, self._updates, self._waited = (saved["actors"][name] for name in ("steps", "updates", "waited"))
        self.replay.load(directory / _REPLAY)
        set_sampling_state(self.replay, saved["sampling"])
        load_generators(directory)
        return (
            ", with new episodes, because the actors' environments are in processes of their own. Batches come in "
            "any order, so what follows is not bit for bit what would have followed."
        )

    def measures(self, training_seconds: float) -> dict[str, float]:
        waited = min(1.0, self._waited / training_seconds) if training_seconds else 0.0
        return {"actors": self.actors.playing, "lag": self._updates - self.actors.played, "waited": waited}

    def news(self) -> list[str]:
        told, self.actors.news = self.actors.news, []
        return told

    def close(self) -> None:
        try:
            self._open.close()
        finally:
            assert self.environment is not None
            self.environment.close(raise_if_closed=False)
            super().close()

    def __str__(self) -> str:
        return f"an environment, by {self._config.actors} actors"


def _wanted(arrivals: Arrivals) -> list[NestedKey]:
    """The entries of transitions that are kept or looked at."""
    carried = (*arrivals.observation_keys, *arrivals.latent_keys)
    observed = [*arrivals.observation_keys, *(("next", *as_tuple(key)) for key in carried)]
    told: list[NestedKey] = [("next", name) for name in (REWARD, DONE, TERMINATED, TRUNCATED)]
    return [*observed, *arrivals.action_keys, *told, IS_INIT, STREAM]
