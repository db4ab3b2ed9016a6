"""Small TD-MPC2 runs whose rows two actors collect, on Ray or where its part is taken in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worldloom_rl.recipes import tdmpc2
from worldloom_rl.recipes.options import TDMPC2RunConfig
from worldloom_rl.training.collected_by_actors import CollectedByActors

FEW = ("num_samples=8", "num_elites=2", "num_policy_trajectories=2", "iterations=1", "batch_size=8",
       "updates_per_step=0.25")  # fmt: skip
UNLOOKED = {"episodic": False, "rescale_observations": False}  # nothing is stepped before the actors do


def planned(directory: Path, **changes: object) -> TDMPC2RunConfig:
    told = {
        "env": "Pendulum-v1", "time_limit": 15, "steps": 140, "seed_steps": 100, "overrides": FEW, "num_envs": 2,
        "actors": 2, "actor_steps": 5, "run_directory": str(directory / "run"), "eval_episodes": 1,
        "final_eval_episodes": 1, "first_evaluation": False,
    }  # fmt: skip
    return TDMPC2RunConfig(**{**told, **changes})  # type: ignore[arg-type]


@contextmanager
def source_of(config: TDMPC2RunConfig) -> Iterator[CollectedByActors]:
    state = tdmpc2.make_state(config)
    assert isinstance(state.source, CollectedByActors)
    try:
        yield state.source
    finally:
        state.close()
