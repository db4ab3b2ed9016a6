# %% [markdown]
# # Learn from recordings
# Every run keeps what it collected. Here two runs of two tasks become the data of one agent that knows both and never
# touches an environment, and that agent goes on in a third task. Ten minutes on one core.

# %%
import json
import os
import tempfile
from pathlib import Path

import gymnasium
import torch

from worldloom_rl.commands.finetune import fine_tuning
from worldloom_rl.data import open_episodes
from worldloom_rl.recipes import tdmpc2, tdmpc2_offline
from worldloom_rl.recipes.finetune_options import FineTuneOptions
from worldloom_rl.training import loop
from worldloom_rl.training.evaluate import Evaluation

STEPS = int(os.environ.get("TUTORIAL_STEPS", "1000"))  # agent steps of each run; a test makes fewer
FURTHER = 3 * STEPS // 4  # of those in the third task
LENGTH = min(200, STEPS // 5)  # of an episode
MOON, EARTH, JUPITER = "MoonPendulum-v0", "Pendulum-v1", "JupiterPendulum-v0"
for name, g in ((MOON, 6.0), (JUPITER, 14.0)):
    gymnasium.register(name, "gymnasium.envs.classic_control.pendulum:PendulumEnv", kwargs={"g": g})
folder = Path(tempfile.mkdtemp())


def options(name: str, **others) -> dict:
    """What all runs here are told."""
    few = {"eval_episodes": 4, "final_eval_episodes": 4, "eval_every": 10**6, "first_evaluation": False}
    return {"time_limit": LENGTH, "run_directory": str(folder / name), **few, **others}


def evaluations(run) -> list[Evaluation]:
    return [Evaluation(**values) for values in json.loads((run.path / "result.json").read_text())["evaluations"]]


# %% [markdown]
# Two agents of one task each, as `worldloom train tdmpc2 --env Pendulum-v1` trains them. What they leave is opened by
# their directories. Whoever has recordings of another origin names these instead: TD-MPC2's own data sets, Minari,
# LeRobot, HDF5 (how-to 7).

# %%
for task in (MOON, EARTH):
    run = tdmpc2.train(tdmpc2.Config(env=task, steps=STEPS, seed_steps=LENGTH, **options(task)))
    episodes = open_episodes(str(run.path))
    collected = float(episodes.rows(torch.arange(int(episodes.ends[-1])))["reward"].sum()) / len(episodes.lengths)
    returned = evaluations(run)[-1].mean_return
    print(f"{task}: {len(episodes.lengths)} episodes, mean return {collected:.0f}; the agent's {returned:.0f}")

# %% [markdown]
# One agent of both, from what the two collected, first bad, then good: now a step is a gradient update. The tasks are
# told apart by a learned embedding, and evaluations play them side by side. As a command:
# `worldloom train tdmpc2 --tasks MoonPendulum-v0 Pendulum-v1 --data RUN RUN`.

# %%
both = tdmpc2_offline.train(
    tdmpc2.Config(
        tasks=(MOON, EARTH),
        data=(str(folder / MOON), str(folder / EARTH)),
        steps=2 * STEPS,
        **options("both"),
    )
)
for task, returns in evaluations(both)[-1].returns_by_task.items():
    print(f"both, from recordings alone: {task} return {sum(returns) / len(returns):.0f}")

# %% [markdown]
# The third task is new to it: it begins with the weights of the two, and with the embedding of the one that it is like.
# Nothing is drawn at random first. The same steps from nothing stand beside it. As a command:
# `worldloom finetune RUN --env JupiterPendulum-v0 --like Pendulum-v1`, with `--data` if there are recordings of it too.

# %%
steps = {**options("tuned", steps=FURTHER), "first_evaluation": True}
tuned = loop.train(*fine_tuning(FineTuneOptions(started_from=str(both.path), env=JUPITER, like=EARTH, **steps)))
print(f"fine-tuned: return {[round(made.mean_return) for made in evaluations(tuned)]} after 0 and {FURTHER} steps")
fresh = tdmpc2.train(tdmpc2.Config(env=JUPITER, seed_steps=LENGTH, **options("fresh", steps=FURTHER)))
print(f"from nothing: return {evaluations(fresh)[-1].mean_return:.0f} after {FURTHER} steps")
