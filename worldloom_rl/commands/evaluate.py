"""`worldloom eval`: episodes with a run's newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldloom_rl.commands.console import say
from worldloom_rl.commands.ranges import EpisodeCount, Seed, in_range

if TYPE_CHECKING:
    from worldloom_rl.training.evaluate import Evaluation


@in_range
def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    episodes: EpisodeCount = 20,
    seeds: tuple[Seed, ...] = (0,),
    tasks: tuple[str, ...] = (),
    best: bool = False,
    trust: bool = False,
) -> None:
    """Play whole episodes with the newest checkpoint of a run, without exploration noise.

    A JEPA that has no goals to plan to is judged by its predictions in episodes that it did not learn from.

    Args:
        run: the run directory, where evaluation-seed<seed>.json is written for each seed.
        episodes: how many for each seed (and task), planned for side by side.
        seeds: of environments and planner.
        tasks: those to play of a run that knows several; by default all that have an environment.
        best: play with the checkpoint that was evaluated best, of those that are kept, in place of the newest.
        trust: the run is somebody else's, and may import the module that its config.json names, now and later.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"An evaluation needs at least one seed and each only once, got {list(seeds)}.")
    import dataclasses

    import torch

    from worldloom_rl.atomic import write_json
    from worldloom_rl.commands.trained import newest, of_tasks
    from worldloom_rl.functional.statistics import score_text
    from worldloom_rl.training import loop
    from worldloom_rl.training.run_directory import provenance

    trained = newest(run, best=best, trust=trust)
    config = of_tasks(trained.config, tasks)
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
        reason = "has no environment" if config.tasks else "gives no goals to plan to"
        say(f"No episode was played: {trained.config.task} {reason}.")


def _table(evaluations: Sequence[Evaluation]) -> str:
    """A line a task, and the mean of the normalised scores where tasks have one."""
    from worldloom_rl.training.evaluate import normalised

    lines, scores = [], []
    tasks = list(dict.fromkeys(evaluations[0].tasks))
    width = max(map(len, tasks))
    for task in tasks:
        parts = [evaluation.of_task(task) for evaluation in evaluations]
        rates = [part.success_rate for part in parts if part.successes]
        success = sum(rates) / len(rates) if rates else None
        score = normalised(task, sum(part.mean_return for part in parts) / len(parts), success)
        scores += [score] if score is not None else []
        lines.append(f"  {task:<{width}}  {_summary(parts)}, normalised {'–' if score is None else f'{score:.1f}'}")
    lines += [f"  normalised score {sum(scores) / len(scores):.1f}, the mean of {len(scores)} tasks"] if scores else []
    return "\n".join(lines)


def _summary(evaluations: Sequence[Evaluation]) -> str:
    """All episodes together: mean, range, interquartile mean with its interval, and successes where they are told."""
    from worldloom_rl.functional.statistics import bootstrap_interval, interquartile_mean, score_text

    strata = [evaluation.returns for evaluation in evaluations]
    returns = [score for scores in strata for score in scores]
    told = [success for evaluation in evaluations for success in evaluation.successes]
    successes = [success for success in told if success is not None]
    success = f", success rate {sum(successes) / len(successes):.2f}" if successes else ""
    low, high = bootstrap_interval(strata)
    return (
        f"{len(returns)} episodes: mean return {score_text(sum(returns) / len(returns))} "
        f"(from {score_text(min(returns))} to {score_text(max(returns))}), interquartile mean "
        f"{score_text(interquartile_mean(returns))} (95 % interval {score_text(low)} to {score_text(high)}){success}"
    )
