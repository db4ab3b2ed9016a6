# %% [markdown]
# # A first world model
# From a `GymEnv` to a TD-MPC2 planner in a stock TorchRL `Collector`, without the recipe. Some minutes on one core.

# %%
import os

import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.envs import Compose, FrameSkipTransform, GymEnv, InitTracker, TransformedEnv

from worldloom_rl import WorldModelLoss
from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyLoss, TDMPC2Config, make_planner
from worldloom_rl.recipes.tdmpc2 import make_optimizers, update
from worldloom_rl.specs.environment import specs_of

STEPS = int(os.environ.get("TUTORIAL_STEPS", "1500"))  # agent steps; a test runs fewer
RANDOM_STEPS = min(500, STEPS - 10)
torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# An environment of TorchRL. Every action is held for two simulator steps, so an episode has 100 agent steps.

# %%
env = TransformedEnv(GymEnv("Pendulum-v1"), Compose(FrameSkipTransform(2), InitTracker()))
observation_spec, action_spec = specs_of(env)

# %% [markdown]
# A model is built from specs and a frozen configuration. Its verbs are TensorDict modules, and so is the planner:
# `TensorDictSequential(model.encode, planner)` is a policy.

# %%
config = TDMPC2Config.from_size("tiny", discount=0.95)  # γ for 100 agent steps
model = TDMPC2(config, observation_spec, action_spec).eval()
policy = TensorDictSequential(model.encode, make_planner(model))

# %% [markdown]
# The collector finds the planner's warm start by itself. `Arrivals` turns transitions into rows, each frame once.

# %%
collector = Collector(
    env,
    policy,
    frames_per_batch=1,
    total_frames=STEPS,
    init_random_frames=RANDOM_STEPS,
    auto_register_policy_transforms=True,
)
arrivals = Arrivals(model.observation_keys, model.action_keys)
replay = Replay(capacity=2 * STEPS, window=config.horizon + 1, batch_size=config.batch_size, by="episode")
world_model_loss = WorldModelLoss(model, model.loss_weights)
policy_loss = PolicyLoss(model)
optimizers = make_optimizers(model)

# %% [markdown]
# One update per step, and as many at once as there were random steps.

# %%
episode_return, returns = 0.0, []
for step, transitions in enumerate(collector, start=1):
    replay.extend(arrivals(transitions))
    episode_return += transitions["next", "reward"].sum().item()
    if transitions["next", "done"].any():
        returns.append(episode_return)
        print(f"step {step}: return {episode_return:.0f}")
        episode_return = 0.0
    for _ in range(RANDOM_STEPS if step == RANDOM_STEPS else int(step > RANDOM_STEPS)):
        update(model, world_model_loss, policy_loss, optimizers, replay.sample())
