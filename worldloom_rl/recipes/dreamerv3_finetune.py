"""Go on with a trained DreamerV3 in another environment, with recorded episodes of it beside the new ones if asked for.

An update and a step are those of `recipes.dreamerv3`. World model, actor, critic and slow critic are kept, and the
optimiser is new; after a run that explored the critic begins anew, as it valued something else than the reward.
Recorded rows have no latents yet: a window that is drawn for the first time starts from zeros.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torchrl.envs import EnvBase

from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.pretrained.weights import copy_weights
from worldloom_rl.recipes import dreamerv3
from worldloom_rl.recipes.dreamerv3 import DreamerV3Recipe, State
from worldloom_rl.recipes.finetune import check_fits, starting_model
from worldloom_rl.recipes.finetune_options import EXPLORED, FineTuneConfig
from worldloom_rl.recipes.finetune_options import FineTunedDreamerV3RunConfig as Config
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training import loop
from worldloom_rl.training.mixed import Mixed, RecordedBesideCollected
from worldloom_rl.training.overrides import overridden
from worldloom_rl.training.recorded import record_all
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.source import ReplaySource, closed_on_error

_OF_REWARDS = ("critic", "slow_critic", "return_range")  # parts of a behaviour that know what was rewarded


def make_state(config: Config) -> State:
    """A state with the old weights, with the environments open. Randomness is seeded here."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with closed_on_error(config.make_env(config.num_envs, config.seed)) as env:
        model = starting_model(config, DreamerV3, lambda old: fit(config, env, old))
        state = dreamerv3.collecting_state(config, env, model)
        if config.data:
            assert isinstance(state.source, ReplaySource)
            window, batch_size = state.source.replay.window, model.config.batch_size
            recorded = record_all(
                config, config.data, model, specs_of(env), RecordedBesideCollected, window=window, batch_size=batch_size
            )
            state.source = Mixed(recorded, state.source, share=config.offline_share, batch_size=batch_size)
        return state


def fit(config: Config, env: EnvBase, old: DreamerV3) -> DreamerV3:
    """The model for the run's environment. Raises ValueError for what does not fit, by name."""
    if config.like != FineTuneConfig.like:
        raise ValueError(f"--like takes a task of a TD-MPC2 of several; {config.started_from} is a DreamerV3 of one.")
    check_fits(config, (old.observation_spec, old.action_spec), specs_of(env))
    new = DreamerV3(dataclasses.replace(old.config, **overridden(old.config, config.overrides)), *specs_of(env))
    anew = _OF_REWARDS if EXPLORED in config.began_as else ()
    fresh = {part: copy.deepcopy(new.behavior.get_submodule(part).state_dict()) for part in anew}
    copy_weights(old, new)
    for part, weights in fresh.items():
        new.behavior.get_submodule(part).load_state_dict(weights)
    return new


class FineTunedDreamerV3Recipe(DreamerV3Recipe):
    """DreamerV3 from old weights as the loop runs it."""

    name = "dreamerv3-finetune"
    title = "DreamerV3, fine-tuned,"
    config_class: type[dreamerv3.Config] = Config

    def make_state(self, config: dreamerv3.Config) -> State:
        assert isinstance(config, Config)
        return make_state(config)


RECIPE = FineTunedDreamerV3Recipe()


def train(config: Config) -> RunDirectory:
    """Train from the old weights. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
