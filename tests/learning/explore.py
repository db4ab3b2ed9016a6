"""DreamerV3 on Door, whose one reward is far away: learning from disagreement, and beside it from the reward alone.

`python tests/learning/explore.py SEED [DIRECTORY]` trains both, lets the one that explored go on for the reward, and
writes how much of the rooms each had seen and when it first succeeded. Runs that are in DIRECTORY go on.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from test_learning import RESULTS

from worldloom_rl.atomic import write_json
from worldloom_rl.commands.finetune import fine_tuning
from worldloom_rl.envs.door import HEIGHT, WIDTH, is_free
from worldloom_rl.recipes import dreamerv3
from worldloom_rl.recipes.finetune_options import FineTuneOptions
from worldloom_rl.training.checkpoint import load_state
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.recipe import AnyRecipe
from worldloom_rl.training.run_directory import RunDirectory, provenance
from worldloom_rl.training.train_or_resume import train_or_resume

BUDGET: dict[str, Any] = {
    "env": "worldloom/Door-v0",
    "num_envs": 4,
    "eval_every": 10**6,
    "final_eval_episodes": 20,
    "first_evaluation": False,
}
NUMBERS = ("batch_size=8", "batch_length=16", "updates_per_step=0.25", "learning_rate=1e-3")
STEPS, TUNING_STEPS = 4000, 2000
CELLS = sum(is_free(column, row) for column, row in product(range(WIDTH), range(HEIGHT)))


def seen(recipe: AnyRecipe, config: RunConfig, run: RunDirectory) -> dict[str, Any]:
    """What a run's rows tell: the share of cells after so many steps, the first success and how many there were."""
    state = load_state(recipe, config, run.checkpoints.latest())
    try:
        rows = state.source.entries("observation", "reward", "is_init")
    finally:
        state.close()
    steps = (~rows["is_init"].flatten()).cumsum(0)  # agent steps before and with each row
    places = (rows["observation"] * torch.tensor([WIDTH - 1, HEIGHT - 1])).round().long()
    number = places[:, 0] * 1000 + places[:, 1]
    successes = steps[rows["reward"].flatten() > 0]
    return {
        "coverage": {
            count: number[steps <= count].unique().numel() / CELLS for count in range(500, config.steps + 1, 500)
        },
        "first_success": int(successes[0]) if len(successes) else None,
        "successes": successes.tolist(),
        "episodes": int(rows["is_init"].sum()),
        "config": dataclasses.asdict(config),
    }


def main(seed: int, directory: Path) -> None:
    """The two runs, and the one that goes on."""
    found = {}
    for name, explore in (("exploring", True), ("reward_alone", False)):
        folder = str(directory / f"{name}-{seed}")
        config = dreamerv3.Config(
            **BUDGET, steps=STEPS, overrides=NUMBERS, seed=seed, explore=explore, run_directory=folder
        )
        found[name] = seen(dreamerv3.RECIPE, config, train_or_resume(dreamerv3.RECIPE, config))
    started_from, folder = str(directory / f"exploring-{seed}"), str(directory / f"tuned-{seed}")
    options = FineTuneOptions(**BUDGET, steps=TUNING_STEPS, seed=seed, started_from=started_from, run_directory=folder)
    recipe, tuned = fine_tuning(options)
    found["then_for_the_reward"] = seen(recipe, tuned, train_or_resume(recipe, tuned))
    write_json(RESULTS / f"explore-door-seed{seed}.json", {"seed": seed, **found, **provenance()})


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()))
