"""Train TD-MPC2 from recorded episodes: `train(Config(tasks=("dmc:cup-catch", "dmc:walker-walk"), data=("runs/a",)))`.

An update is that of `recipes.tdmpc2`; here the rows are all there before the first one.
Reference: nicklashansen/tdmpc2, trainer/offline_trainer.py.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torchrl.envs import EnvBase

from worldloom_rl.data import Episodes, open_episodes
from worldloom_rl.data.windows import Windows
from worldloom_rl.envs import episode_length
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.models.tdmpc2.encoder import specs_of_tasks
from worldloom_rl.recipes import tdmpc2
from worldloom_rl.recipes.options import TDMPC2RunConfig as Config
from worldloom_rl.recipes.tdmpc2 import State, TDMPC2Recipe
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training import first_look, loop
from worldloom_rl.training.clock import UPDATES
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.recorded_windows import RecordedWindows
from worldloom_rl.training.run_directory import RunDirectory

_LOOKED_AT = 10_000  # episodes whose ends are looked at before learning

# The run that was settled last with the data that it looked at, until its state takes them: opening many takes seconds.
_looked_at: deque[tuple[Config, Episodes]] = deque(maxlen=1)


def settled(config: Config) -> Config:
    """The configuration with what the recorded episodes tell, where it says nothing of it."""
    if config.tasks or config.episodic is not None:
        return first_look.settled(config)
    with torch.random.fork_rng(devices=[]):
        episodes = _open(config)
    config = first_look.settled(config, episodic=ends_by_itself(episodes))
    _looked_at.append((dataclasses.replace(config, run_directory=None), episodes))
    return config


def make_state(config: Config) -> State:
    """A fresh state, with the recorded episodes open. Randomness is seeded here."""
    config = settled(config)
    episodes = _opened(config)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = make_model(config, episodes).to(config.device).eval()
    source = RecordedWindows(_windows(model, episodes, config.seed), model.observation_spec, model.action_spec)
    return tdmpc2.state_of(config, model, source, updates_due=float(config.steps))


def make_model(config: Config, episodes: Episodes) -> TDMPC2:
    """A fresh model for the environment or the tasks of a run, or for what is recorded of one that has none."""
    if config.tasks:
        return TDMPC2(config.model_config(), *specs_of_tasks(config.task_set()))
    if config.episode_length is not None:
        return TDMPC2(config.model_config(config.episode_length), episodes.observation_spec, episodes.action_spec)
    with _environment(config) as env:
        return TDMPC2(config.model_config(episode_length(env)), *specs_of(env))


def _opened(config: Config) -> Episodes:
    """The recorded episodes, those that `settled` looked at if it did. Raises what `check_terminations` does."""
    if _looked_at and _looked_at[-1][0] == dataclasses.replace(config, run_directory=None):
        return _looked_at.pop()[1]
    episodes = _open(config)
    check_terminations(config, episodes)
    return episodes


def _open(config: Config) -> Episodes:
    """The recorded episodes; actions whose bounds nobody recorded have those of the environments."""
    if config.tasks:
        specs = config.described().action_specs
    elif config.episode_length is not None:
        specs = {}
    else:
        with _environment(config) as env:
            specs = {config.env: specs_of(env)[1]}
    return open_episodes(config.data, config.task_names, image_size=config.rendered_size, action_specs=specs)


@contextmanager
def _environment(config: Config) -> Iterator[EnvBase]:
    try:
        env = config.make_env(1, config.seed)
    except ValueError as error:
        raise ValueError(f"{error} Where the task has no environment, tell --episode-length.") from error
    try:
        yield env
    finally:
        env.close()


def _windows(model: TDMPC2, episodes: Episodes, seed: int) -> Windows:
    numbers = model.config
    return Windows(episodes, numbers.horizon + 1, numbers.batch_size, torch.Generator().manual_seed(seed))


def check_terminations(config: Config, episodes: Episodes) -> None:
    """Raises ValueError if episodes of one task end in terminal states that its model does not learn of.

    In several tasks they count in the targets alone, as in the official code.
    """
    if not config.tasks and not config.episodic and ends_by_itself(episodes):
        raise ValueError(
            f"Episodes of {episodes.source} end in terminal states, but the model learns no termination. Train with "
            "--episodic."
        )


def ends_by_itself(episodes: Episodes) -> bool:
    """Whether recorded episodes, of many some, ended in a terminal state."""
    ends = episodes.lengths.cumsum(0) - 1
    some = torch.linspace(0, len(ends) - 1, min(len(ends), _LOOKED_AT), dtype=torch.float64).long()
    return bool(episodes.rows(ends[some])["terminated"].any())


class OfflineTDMPC2Recipe(TDMPC2Recipe):
    """TD-MPC2 from recorded episodes as the loop runs it: all steps are updates."""

    name = "tdmpc2-offline"
    title = "TD-MPC2, offline,"
    clock = UPDATES
    pretrains = False

    def settle(self, config: Config) -> Config:
        return settled(config)

    def make_state(self, config: Config) -> State:
        return make_state(config)

    def describe(self, state: State) -> str:
        without = state.config.without_environment
        missing = f". Not evaluated, because there is no such environment: {', '.join(without)}" if without else ""
        return f"learns from {state.source}{missing}"

    def evaluate(
        self, config: Config, model: TDMPC2, episodes: int, seed: int, check: Callable[[], None]
    ) -> Evaluation:
        """As online; the losses of recorded windows where nothing has an environment."""
        if not config.without_environment or config.played_tasks:
            return super().evaluate(config, model, episodes, seed, check)
        recorded = _windows(model, _open(config), seed)
        source = RecordedWindows(recorded, model.observation_spec, model.action_spec)
        with torch.no_grad():
            losses, _ = model.compute_loss(source.sample().to(config.device))
        return Evaluation(0, [], [], statistics={name: float(loss.mean()) for name, loss in losses.items()})


RECIPE = OfflineTDMPC2Recipe()


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
