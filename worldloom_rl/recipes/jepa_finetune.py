"""Go on with a trained JEPA on other episodes, collected or recorded.

An update and a run are those of `recipes.jepa`. All weights are kept, the running numbers of its batch norms too, and
the optimiser is new. An action means what it meant: the numbers that normalise it are kept, told in the new bounds.
"""

from __future__ import annotations

import dataclasses

import torch
from torchrl.data import Composite

from worldloom_rl.models.jepa import JEPA
from worldloom_rl.pretrained.weights import copy_weights
from worldloom_rl.recipes import jepa
from worldloom_rl.recipes.finetune import check_fits, starting_model
from worldloom_rl.recipes.finetune_options import FineTunedJEPARunConfig as Config
from worldloom_rl.recipes.jepa import JEPARecipe, State
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.specs.observations import is_image
from worldloom_rl.training import loop
from worldloom_rl.training.overrides import overridden
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.world_model.windowed import frame_keys


def make_state(config: Config) -> State:
    """A state with the old weights, with the environment open or the recorded episodes read."""
    return jepa.state_of(config, lambda *specs: starting_model(config, JEPA, lambda old: fit(config, old, *specs)))


def fit(config: Config, old: JEPA, observation_spec: Composite, action_spec: Composite) -> JEPA:
    """The model for what is learned from. Raises ValueError for what does not fit, by name.

    Args:
        action_spec: of blocks of `frame_skip` actions.
    """
    before, now = (_frames(old.observation_spec), old.action_spec), (_frames(observation_spec), action_spec)
    check_fits(config, before, now, _remedy(config, before, now))
    numbers = dataclasses.replace(old.config, **overridden(old.config, config.overrides))
    new = JEPA(numbers, observation_spec, action_spec)
    copy_weights(old, new)
    _keep_meaning(old.action_space, new)
    return new


def _frames(spec: Composite) -> Composite:
    """What is observed beside goals, which an environment may give and recorded episodes do not."""
    return Composite({key: spec[key] for key in frame_keys(spec)})


def _remedy(config: Config, before: tuple[Composite, Composite], now: tuple[Composite, Composite]) -> str:
    """The options that make what is learned from fit, where there are any."""
    remedies = []
    widths = [ActionSpace(spec).width for spec in (before[1], now[1])]
    single = widths[1] // config.frame_skip
    if widths[0] != widths[1] and widths[0] % single == 0:
        remedies.append(f"--frame-skip {widths[0] // single}")
    heights = [[leaf.shape[1] for leaf in spec.values(True, True) if is_image(leaf)] for spec in (before[0], now[0])]
    if heights[0] != heights[1] and len(set(heights[0])) == 1:
        remedies.append(f"--image-size {heights[0][0]}")
    return f"Give {' '.join(remedies)}" if remedies else "Learn from what is so"


def _keep_meaning(before: ActionSpace, model: JEPA) -> None:
    """Actions as an environment takes them are to the model what they were, whatever their bounds are now."""
    now, encoder = model.action_space, model.action_encoder
    if torch.equal(before.center, now.center) and torch.equal(before.half_range, now.half_range):
        return
    mean = (before.center + before.half_range * encoder.mean - now.center) / now.half_range
    encoder.normalize(mean, encoder.std * before.half_range / now.half_range)


class FineTunedJEPARecipe(JEPARecipe):
    """A JEPA from old weights as the loop runs it."""

    name = "jepa-finetune"
    title = "JEPA, fine-tuned,"
    config_class: type[jepa.Config] = Config

    def make_state(self, config: jepa.Config) -> State:
        assert isinstance(config, Config)
        return make_state(config)

    def begin(self, state: State) -> None:
        """Nothing is counted anew: actions keep their meaning."""


RECIPE = FineTunedJEPARecipe()


def train(config: Config) -> RunDirectory:
    """Train from the old weights. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
