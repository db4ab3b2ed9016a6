"""Finished runs become results: `python tests/learning/keep_run.py RUN…` writes a JSON file of each.

It is the run's result.json with what it is judged by: a random policy, what gymnasium calls solved, and what was
published after as many environment steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
from test_learning import RESULTS, random_returns

from worldloom_rl.atomic import write_json
from worldloom_rl.commands.trained import open_run
from worldloom_rl.report.run_results import RunGroup, RunResult, read_result
from worldloom_rl.training import loop
from worldloom_rl.training.manifest import read_tensors
from worldloom_rl.training.published_curves import PublishedCurve

STEPS = (10_000, 20_000, 30_000, 50_000, 100_000)  # environment steps at which runs are looked at, beside their end
BEFORE = 5_000  # environment steps before them whose training episodes are counted, where those were published


def kept(run: Path) -> dict[str, Any]:
    """The result of a run directory with what it is judged by."""
    recipe, directory = open_run(run)
    config = loop.read_config(recipe, directory)
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    result["training_returns"] = read_tensors(directory.checkpoints.latest() / "learning.pt")["episode_returns"]
    result["random_returns"] = random_returns(config, len(result["final_returns"]))
    result["random_mean_return"] = sum(result["random_returns"]) / len(result["random_returns"])
    result["threshold"] = threshold(config.env)
    read = read_result(run)
    result["compared"] = compared(read, RunGroup("", (read,)).official, result)
    return result


def threshold(env: str) -> float | None:
    """The return from which on gymnasium calls an environment solved, if it says so."""
    try:
        return gymnasium.spec(env).reward_threshold
    except gymnasium.error.Error:
        return None


def compared(run: RunResult, official: PublishedCurve | None, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The run's mean return at its end, and at `STEPS` where something was published, each with what that was.

    Of the kind that was published: of training episodes those that ended in the `BEFORE` steps before.
    """
    trained = official is not None and official.episodes == "training" and len(set(last_lengths(result))) == 1
    found = []
    for steps in sorted({*(STEPS if official else ()), run.environment_steps}):
        if steps > run.environment_steps:
            break
        mean = training_return(result, steps) if trained else evaluation_return(run, steps)
        point = official.at(steps) if official else None
        published = {"mean": point.mean, "least": point.low, "greatest": point.high} if point else None
        if mean is not None:
            found.append(
                {
                    "environment_steps": steps,
                    "mean_return": mean,
                    "episodes": "training" if trained else "evaluation",
                    "published": published,
                    "published_by": str(official) if official else None,
                }
            )
    return found


def last_lengths(result: dict[str, Any]) -> list[int]:
    lengths: list[int] = result["evaluations"][-1]["lengths"]
    return lengths


def training_return(result: dict[str, Any], steps: int) -> float | None:
    """Mean of the training episodes that ended in the `BEFORE` environment steps up to these; all are of one length."""
    envs, repeat = result["config"]["num_envs"], result["environment_steps"] // result["agent_steps"]
    each = last_lengths(result)[0] * repeat * envs  # environment steps in which every environment ends an episode
    ends = [(number // envs + 1) * each for number in range(len(result["training_returns"]))]
    counted = [
        value for end, value in zip(ends, result["training_returns"], strict=True) if steps - BEFORE < end <= steps
    ]
    return sum(counted) / len(counted) if counted else None


def evaluation_return(run: RunResult, steps: int) -> float | None:
    """Mean of the evaluation after these steps, if one was made there."""
    made = dict(zip(run.steps, run.returns, strict=True))
    return sum(made[steps]) / len(made[steps]) if steps in made else None


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        result = kept(run)
        config = result["config"]
        task = config["env"].replace(":", "-").replace("/", "-")
        file = RESULTS / f"{result['recipe']}-{task}-{config['preset']}-seed{config['seed']}.json"
        write_json(file, result)


if __name__ == "__main__":
    main(sys.argv[1:])
