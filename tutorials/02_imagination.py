# %% [markdown]
# # What a world model foresees
# DreamerV3 learns CartPole for some minutes; then it observes a few rows of a new episode, closes its eyes and imagines
# the rest from the actions alone. The picture shows where it is right and for how long.

# %%
import os
import tempfile
from pathlib import Path

import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.data import Arrivals
from worldloom_rl.models.dreamerv3 import make_policy
from worldloom_rl.recipes import dreamerv3
from worldloom_rl.report.open_loop import open_loop
from worldloom_rl.report.open_loop_picture import draw_open_loop
from worldloom_rl.training import loop
from worldloom_rl.training.evaluate import with_primers

STEPS = int(os.environ.get("TUTORIAL_STEPS", "2500"))  # agent steps; a test runs fewer
folder = Path(os.environ.get("TUTORIAL_PICTURES", tempfile.mkdtemp()))

# %% [markdown]
# The recipe is a state and a step: `loop.step` makes one gradient update if one is due, else one agent step.

# %%
config = dreamerv3.Config(env=os.environ.get("TUTORIAL_ENV", "CartPole-v1"), steps=STEPS)
state = dreamerv3.make_state(config)
while state.agent_steps < config.steps:
    loop.step(dreamerv3.RECIPE, state)
print(f"mean return of the last training episodes: {sum(state.source.episode_returns[-5:]) / 5:.1f}")

# %% [markdown]
# A new episode. `Arrivals` turns transitions into rows: an observation, and the action and reward that led to it.

# %%
model = state.model
policy = make_policy(model)
env = with_primers(config.make_env(num_envs=1, seed=1), policy)  # places for what the policy carries
with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
    rows = Arrivals(model.observation_keys, model.action_keys)(env.rollout(60, policy)).rows
context = min(5, len(rows) - 1)

# %% [markdown]
# `open_loop` filters the context with `observe`, goes on with `predict`, and decodes every latent.

# %%
result = open_loop(model, rows, context=context, samples=8)
draw_open_loop(folder / "open_loop.png", f"{config.env} after {STEPS} steps", result)
key = model.observation_keys[0]
error = (result.samples[key].float().mean(0) - rows[key].float()).abs().flatten(1).mean(1)
print(f"mean error in the context {error[:context].mean():.3f}, imagined {error[context:].mean():.3f}")
print(f"the picture: {folder / 'open_loop.png'}")
