"""Finished runs become results: `python tests/learning/keep_run.py RUN…` writes a JSON file of each.

It is the run's result.json with what it is judged by: a random policy, what gymnasium calls solved, and what was
published after as many environment steps; for what learned from recordings, by task, what these returned.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import gymnasium
from test_learning import RESULTS, random_returns

from worldloom_rl.atomic import write_json
from worldloom_rl.commands.trained import of_tasks, open_run
from worldloom_rl.config import Json
from worldloom_rl.data import open_episodes
from worldloom_rl.data.run_episodes import is_run
from worldloom_rl.report.recorded_data import episode_return
from worldloom_rl.report.run_results import RunGroup, RunResult, read_result
from worldloom_rl.tasks import plain_name, trained_on
from worldloom_rl.training import loop
from worldloom_rl.training.manifest import read_tensors
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.published_curves import PublishedCurve

STEPS = (10_000, 20_000, 30_000, 50_000, 100_000)  # environment steps at which runs are looked at, beside their end
BEFORE = 5_000  # environment steps before them whose training episodes are counted, where those were published


_LONGEST = 60  # characters of a part of a file's name


def kept(run: Path) -> dict[str, Any]:
    """The result of a run directory with what it is judged by."""
    recipe, directory = open_run(run)
    config = loop.read_config(recipe, directory)
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    result["training_returns"] = read_tensors(directory.checkpoints.latest() / "learning.pt")["episode_returns"]
    by_task = {task: {"returns": returns} for task, returns in final_returns(config, result).items()}
    for task, of_task in by_task.items():
        random = random_returns(of_tasks(config, [task]) if config.tasks else config, len(of_task["returns"]))
        of_task["random_returns"] = random
    result["random_returns"] = [value for of_task in by_task.values() for value in of_task["random_returns"]]
    result["random_mean_return"] = fmean(result["random_returns"])
    result["threshold"] = threshold(config)
    if config.data:
        sources = [at_hand(source, run) for source in config.data]
        result["by_task"] = {
            task: {**of_task, **recorded(task, sources, config), "runs": agents(task, sources)}
            for task, of_task in by_task.items()
        }
    if not config.earlier:
        read = read_result(run)
        result["compared"] = compared(read, RunGroup("", (read,)).official, result)
    return result


def final_returns(config: RunConfig, result: Mapping[str, Json]) -> dict[str, list[float]]:
    """Returns of the last evaluation by task, in the order in which they were played."""
    last = result["evaluations"][-1]
    tasks = last.get("tasks") or [config.env] * len(last["returns"])
    found: dict[str, list[float]] = {task: [] for task in tasks}
    for task, value in zip(tasks, last["returns"], strict=True):
        found[task].append(value)
    return found


def threshold(config: RunConfig) -> float | None:
    """The return from which on gymnasium calls an environment solved, if it says so of what the run learned."""
    try:
        return None if config.env_kwargs else gymnasium.spec(config.env).reward_threshold
    except gymnasium.error.Error:
        return None


# ------------------------------------------------------------------ of what was recorded


def at_hand(source: str, run: Path) -> str:
    """A source of recordings; one that lies beside the run, as the run was told it, with its whole path."""
    name, equals, path = source.rpartition("=")
    beside = run.absolute().parent / path
    return source if Path(path).exists() or not beside.exists() else f"{name}{equals}{beside}"


def recorded(task: str, sources: Sequence[str], config: RunConfig) -> dict[str, Any]:
    """What the recorded episodes of a task returned: whoever acted in them is what an agent of them is measured by."""
    episodes = open_episodes(sources, config.task_names, config.rendered_size)
    numbers = (episodes.tasks == config.task_names.index(task)).nonzero().flatten().tolist()
    return {"behaviour_returns": [episode_return(episodes, number) for number in numbers]}


def agents(task: str, sources: Sequence[str]) -> dict[str, float]:
    """Mean return of the last evaluation of each single-task run whose replay is learned from, by its name."""
    found = {}
    for source in sources:
        name, _, path = source.rpartition("=")
        if is_run(run := Path(path)) and (run / "result.json").is_file():
            result = json.loads((run / "result.json").read_text())
            if plain_name(name or trained_on(result["config"])) == plain_name(task):
                found[run.name] = result["final_mean_return"]
    return found


# ------------------------------------------------------------------ what was published


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


# ------------------------------------------------------------------ the file


def name_of(result: Mapping[str, Json]) -> str:
    """What a result's file is called: who learned what, with which numbers, and from what where it was not alone."""
    config = result["config"]
    tasks = config["env"] or "+".join(map(plain_name, config["tasks"]))
    sources = [Path(source.rpartition("=")[2]).name for source in config.get("data") or ()]
    began = config.get("started_from")
    parts = [
        result["recipe"],
        tasks,
        "+".join(config.get("env_kwargs", ())),
        f"limit{config['time_limit']}" if config.get("time_limit") else "",
        config["preset"],
        "+".join(config["overrides"]),
        precision(config),
        f"from-{Path(began).name}" if began else "",
        f"of-{'+'.join(sources)}" if sources else "",
        by_several(result),
        f"seed{config['seed']}",
    ]
    return "-".join(short(part) for part in parts if part) + ".json"


def precision(config: Mapping[str, Json]) -> str:
    """What was computed in, where it was not float32."""
    return "bfloat16" if config.get("bfloat16") else ""


def by_several(result: Mapping[str, Json]) -> str:
    """How many collected or learned, where it was not one."""
    counts = {"actors": result["config"].get("actors", 0), "processes": result.get("processes", 1)}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count > 1)


def short(text: str) -> str:
    """The text as a part of a file's name; of a long one the beginning, and what tells it from others."""
    plain = re.sub(r"[^\w.+-]+", "-", text.replace("=", "")).strip("-")
    if len(plain) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST - 20]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def keep(run: Path) -> Path:
    """Writes a finished run's file, and returns where it is."""
    result = kept(run)
    file = RESULTS / name_of(result)
    write_json(file, result)
    return file


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        keep(run)


if __name__ == "__main__":
    main(sys.argv[1:])
