"""`worldloom eval`: episodes with a run's newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldloom_rl.commands.console import say

if TYPE_CHECKING:
    from worldloom_rl.training.evaluate import Evaluation
    from worldloom_rl.training.options import RunConfig


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    episodes: int = 20,
    seeds: tuple[int, ...] = (0,),
    tasks: tuple[str, ...] = (),
) -> None:
    """Play whole episodes with the newest checkpoint of a run, without exploration noise.

    A JEPA that has no goals to plan to is judged by its predictions in episodes that it did not learn from.

    Args:
        run: the run directory, where evaluation-seed<seed>.json is written for each seed.
        episodes: how many for each seed (and task), planned for side by side.
        seeds: of environments and planner.
        tasks: those to play of a run that knows several; by default all that have an environment.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"An evaluation needs at least one seed and each only once, got {list(seeds)}.")
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}.")
    import dataclasses

    import torch

    from worldloom_rl.atomic import write_json
    from worldloom_rl.commands.trained import newest
    from worldloom_rl.functional.statistics import score_text
    from worldloom_rl.training import loop
    from worldloom_rl.training.run_directory import provenance

    trained = newest(run)
    config = _of_tasks(trained.config, tasks)
    evaluations = []
    for seed in seeds:
        torch.manual_seed(seed)
        evaluation = loop.assess(trained.recipe, config, trained.model, episodes, trained.agent_steps, seed)
        file = run / f"evaluation-seed{seed}.json"
        mean = {"mean_return": evaluation.mean_return} if evaluation.returns else {}
        write_json(file, {**dataclasses.asdict(evaluation), **mean, **provenance()})
        evaluations.append(evaluation)
        told = f"mean return {score_text(evaluation.mean_return)}" if evaluation.returns else str(evaluation)
        say(f"seed {seed}: {told}. Written to {file}")
    if any(evaluation.tasks for evaluation in evaluations):
        say(f"{trained.config.task} after {trained.experience}:\n{_table(evaluations)}")
    elif all(evaluation.returns for evaluation in evaluations):
        say(f"{trained.config.env} after {trained.experience}, {_summary(evaluations)}")
    else:
        reason = "has no environment" if getattr(config, "tasks", ()) else "gives no goals to plan to"
        say(f"No episode was played: {trained.config.task} {reason}.")


def _of_tasks(config: RunConfig, tasks: tuple[str, ...]) -> RunConfig:
    """The configuration of a run whose evaluations play these tasks, all if none is named."""
    import dataclasses

    from worldloom_rl.recipes.options import TDMPC2RunConfig

    if not tasks:
        return config
    if not isinstance(config, TDMPC2RunConfig) or not config.tasks:
        raise ValueError(f"--tasks {' '.join(tasks)} are some of several tasks, but the run knows one: {config.task}.")
    return dataclasses.replace(config, eval_tasks=tasks)


def _table(evaluations: Sequence[Evaluation]) -> str:
    """A line a task, and the mean of the normalised scores where tasks have one."""
    import dataclasses

    from worldloom_rl.training.evaluate import normalised

    lines, scores = [], []
    by_task = [evaluation.returns_by_task for evaluation in evaluations]
    width = max(map(len, by_task[0]))
    for task in by_task[0]:
        parts = [dataclasses.replace(evaluations[0], returns=each[task], successes=[]) for each in by_task]
        score = normalised(task, sum(part.mean_return for part in parts) / len(parts))
        scores += [score] if score is not None else []
        lines.append(f"  {task:<{width}}  {_summary(parts)}, normalised {'–' if score is None else f'{score:.1f}'}")
    lines += [f"  normalised score {sum(scores) / len(scores):.1f}, the mean of {len(scores)} tasks"] if scores else []
    return "\n".join(lines)


def _summary(evaluations: Sequence[Evaluation]) -> str:
    """All episodes together: mean, range, interquartile mean with its interval, and successes where they are told."""
    from worldloom_rl.functional.statistics import bootstrap_interval, interquartile_mean, score_text

    strata = [evaluation.returns for evaluation in evaluations]
    returns = [score for scores in strata for score in scores]
    successes = [success for evaluation in evaluations for success in evaluation.successes]
    success = f", success rate {sum(successes) / len(successes):.2f}" if successes else ""
    low, high = bootstrap_interval(strata)
    return (
        f"{len(returns)} episodes: mean return {score_text(sum(returns) / len(returns))} "
        f"(from {score_text(min(returns))} to {score_text(max(returns))}), interquartile mean "
        f"{score_text(interquartile_mean(returns))} (95 % interval {score_text(low)} to {score_text(high)}){success}"
    )
