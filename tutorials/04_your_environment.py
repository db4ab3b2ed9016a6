# %% [markdown]
# # Your environment
# Anything gymnasium can make is trained on by its name. `my_environment.py` beside this file defines a boat in a
# harbour and registers it, as a package of yours would; "module:Id" imports the module and makes the environment.

# %%
import os
import tempfile
from pathlib import Path

from torchrl.modules import RandomPolicy

from worldloom_rl import AutoWorldModel
from worldloom_rl.envs import make_env
from worldloom_rl.models.tdmpc2 import make_policy
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.report.environment_check import check_environment
from worldloom_rl.training.evaluate import evaluate, with_primers

ENV = "my_environment:Harbour-v0"
STEPS = int(os.environ.get("TUTORIAL_STEPS", "1500"))  # agent steps; a test runs fewer
EPISODES = 10 if STEPS > 1000 else 2

# %% [markdown]
# First the check, which is also `worldloom check my_environment:Harbour-v0` in this folder: what models read, whether
# episodes end, what training costs, and problems with their remedies.

# %%
report = check_environment(ENV, [tdmpc2.RECIPE, dreamerv3.RECIPE], steps=STEPS)
print(report.text())
assert report.trainable

# %% [markdown]
# What doing anything is worth: episodes of random actions.

# %%
env = make_env(ENV, num_envs=EPISODES, seed=0)
random = evaluate(env, RandomPolicy(env.full_action_spec), agent_steps=0, seed=0)
print(f"random actions: return {random.mean_return:.1f}")

# %% [markdown]
# Training, as `worldloom train tdmpc2 --env my_environment:Harbour-v0` does it, into a run directory with the
# configuration, logs, checkpoints, the learning curve and the result.

# %%
config = tdmpc2.Config(
    env=ENV,
    steps=STEPS,
    seed_steps=min(300, STEPS - 10),  # random actions before learning
    eval_every=500,
    eval_episodes=EPISODES,
    final_eval_episodes=EPISODES,
    run_directory=str(Path(tempfile.mkdtemp()) / "harbour"),
)
run = tdmpc2.train(config)

# %% [markdown]
# The run's newest model, as anybody loads it, plays other episodes, as with `worldloom eval`.

# %%
model = AutoWorldModel.from_pretrained(run.path).eval()
policy = make_policy(model)
learned = evaluate(with_primers(make_env(ENV, num_envs=EPISODES, seed=7), policy), policy, STEPS, seed=7)
print(f"trained: return {learned.mean_return:.1f}, single episodes {[round(value, 1) for value in learned.returns]}")
print(f"curve, logs and checkpoints: {run.path}")
