"""Go on with a trained TD-MPC2 in another environment, with its recorded episodes beside the new ones if there are any.

An update and a step are those of `recipes.tdmpc2`. All weights are kept, optimisers and running scale are new, and the
planner acts from the first step: nothing is drawn at random (an extension; the authors published no code of theirs).
"""

from __future__ import annotations

import torch
from torchrl.envs import EnvBase

from worldloom_rl.data import open_episodes
from worldloom_rl.data.padded import PaddedEpisodes
from worldloom_rl.data.windows import Windows
from worldloom_rl.envs import episode_length
from worldloom_rl.envs.tasks import own_action_spec, own_task
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.models.tdmpc2.config import TDMPC2Config, discount_for
from worldloom_rl.models.tdmpc2.new_task import MEAN, in_environment, widths_of, with_task
from worldloom_rl.recipes import tdmpc2
from worldloom_rl.recipes.finetune import Described, check_fits, starting_model
from worldloom_rl.recipes.finetune_options import FineTunedTDMPC2RunConfig as Config
from worldloom_rl.recipes.tdmpc2 import State, TDMPC2Recipe
from worldloom_rl.recipes.tdmpc2_offline import check_terminations
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training import loop
from worldloom_rl.training.mixed import Mixed
from worldloom_rl.training.overrides import overridden
from worldloom_rl.training.recorded_windows import RecordedWindows
from worldloom_rl.training.replay import check_window
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.source import ReplaySource, closed_on_error


def make_state(config: Config) -> State:
    """A state with the old weights, with the environments open. Randomness is seeded here."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with closed_on_error(config.make_collection_env(config.seed)) as env:
        model = starting_model(config, TDMPC2, lambda old: fit(config, env, old))
        length, count = episode_length(env), env.batch_size.numel()
        check_window(model.config.horizon + 1, length, f"--overrides horizon={length}")
        collected = tdmpc2.collected(config, env, model, random_steps=config.seed_steps)
        source = mixed(config, env, model, collected) if config.data else collected
        # Episodes are drawn from when they are complete.
        starts = max(config.seed_steps or 0, length * count)
        return tdmpc2.state_of(
            config, model, source, learning_starts=starts, updates_per_step=model.config.updates_per_step
        )


def mixed(config: Config, env: EnvBase, model: TDMPC2, collected: ReplaySource) -> Mixed:
    """The recorded episodes of the run's environment beside collected ones, in the model's form."""
    specs = own_action_spec(env) if config.padded_to else model.action_spec
    episodes = open_episodes(config.data, (config.env,), config.rendered_size, action_specs={config.env: specs})
    if config.padded_to:
        episodes = PaddedEpisodes(episodes, *config.padded_to)
    else:
        check_terminations(config, episodes)
    numbers = model.config
    generator = torch.Generator().manual_seed(config.seed + 1)  # not the draws of the collected ones
    windows = Windows(episodes, numbers.horizon + 1, numbers.batch_size, generator)
    recorded = RecordedWindows(windows, model.observation_spec, model.action_spec)
    return Mixed(recorded, collected, share=config.offline_share, batch_size=numbers.batch_size)


def fit(config: Config, env: EnvBase, old: TDMPC2) -> TDMPC2:
    """The model for the run's environment. Raises ValueError for what does not fit, by name."""
    changes = overridden(old.config, config.overrides)
    if old.task_embedding is not None:
        return with_task(old, own_task(config.env, env), config.like, **changes)
    if config.like != MEAN:
        raise ValueError(f"--like takes a task of a model of several; the model of {config.started_from} knows one.")
    check_fits(config, (old.observation_spec, old.action_spec), specs_of(env))
    discount = min(discount_for(episode_length(env)), config.official.most_discount or 1.0)
    return in_environment(old, *specs_of(env), discount, **changes)


def fields_of(model: Described) -> dict[str, object]:
    """What a run's configuration keeps of the model that it begins with."""
    assert isinstance(model.config, TDMPC2Config)
    padded = {"padded_to": widths_of(model.observation_spec, model.action_spec)} if model.config.num_tasks else {}
    return {"episodic": model.config.episodic, **padded}


class FineTunedTDMPC2Recipe(TDMPC2Recipe):
    """TD-MPC2 from old weights as the loop runs it."""

    name = "tdmpc2-finetune"
    title = "TD-MPC2, fine-tuned,"
    config_class: type[tdmpc2.Config] = Config

    def make_state(self, config: tdmpc2.Config) -> State:
        assert isinstance(config, Config)
        return make_state(config)

    def way_to_terminations(self, config: tdmpc2.Config) -> str:
        return "Go on with one that was trained with --episodic, or train a new one."


RECIPE = FineTunedTDMPC2Recipe()


def train(config: Config) -> RunDirectory:
    """Train from the old weights. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
