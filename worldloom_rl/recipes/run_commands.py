"""What is done with a run besides training it: `worldloom eval` and `worldloom imagine`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.data import Arrivals
from worldloom_rl.functional.statistics import bootstrap_interval, interquartile_mean, score_text
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.recipes import loop
from worldloom_rl.registry import find_preset
from worldloom_rl.report.open_loop import OpenLoop, draw_open_loop, open_loop
from worldloom_rl.training.evaluate import Evaluation, with_primers
from worldloom_rl.training.run_directory import RunDirectory, provenance, write_json
from worldloom_rl.world_model import WorldModel


def evaluate_run(recipe: loop.Recipe, run: RunDirectory, episodes: int, seeds: Sequence[int]) -> list[Evaluation]:
    """Episodes played with a run's newest checkpoint for each seed, also written to evaluation-seed<seed>.json there.

    Raises ValueError if there is no seed or one is named twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"An evaluation needs at least one seed and each only once, got {list(seeds)}.")
    config, model, agent_steps = newest_model(recipe, run)
    evaluations = []
    for seed in seeds:
        torch.manual_seed(seed)
        evaluation = loop.play(recipe, config, model, episodes, agent_steps, seed)
        file = run.path / f"evaluation-seed{seed}.json"
        write_json(file, {**dataclasses.asdict(evaluation), "mean_return": evaluation.mean_return, **provenance()})
        evaluations.append(evaluation)
        _say(f"seed {seed}: mean return {score_text(evaluation.mean_return)}. Written to {file}")
    strata = [evaluation.returns for evaluation in evaluations]
    returns = [score for scores in strata for score in scores]
    low, high = bootstrap_interval(strata)
    _say(
        f"{config.env} after {agent_steps} agent steps, {len(returns)} episodes: "
        f"mean return {score_text(sum(returns) / len(returns))} "
        f"(from {score_text(min(returns))} to {score_text(max(returns))}), interquartile mean "
        f"{score_text(interquartile_mean(returns))} (95 % interval {score_text(low)} to {score_text(high)})"
    )
    return evaluations


def imagine_run(
    recipe: loop.Recipe, run: RunDirectory, *, context: int, horizon: int | None, samples: int, seed: int, output: Path
) -> OpenLoop:
    """A new episode under the run's policy, its first rows observed and the next imagined, also drawn to `output`.

    Args:
        context: rows that the model observes; it imagines the next `horizon`, by default 50 or as many as there are.
    Raises ValueError if these do not fit the episode.
    """
    for name, value in (("context", context), ("horizon", horizon), ("samples", samples)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    config, model, agent_steps = newest_model(recipe, run)
    torch.manual_seed(seed)
    model.noise = GeneratorNoise(torch.Generator(config.device).manual_seed(seed))
    policy = recipe.make_policy(model)
    env = with_primers(config.make_env(1, seed), policy)
    env.set_seed(seed)
    wanted = context + (horizon or 50)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        transitions = env.rollout(wanted - 1, policy, auto_cast_to_device=True)
    env.close()
    rows = Arrivals(model.observation_keys, model.action_keys)(transitions).rows.to(config.device)
    if len(rows) < context + (horizon or 1):
        raise ValueError(
            f"The episode of seed {seed} has {len(rows)} observations, but context {context} and horizon "
            f"{horizon or 1} need {context + (horizon or 1)}; lower them or try another seed."
        )
    result = open_loop(model, rows, context=context, samples=samples)
    title = (
        f"{recipe.title} {config.preset} on {config.env} after {agent_steps} agent steps\n"
        f"a new episode (seed {seed}): {context} steps observed, {len(rows) - context} imagined"
    )
    draw_open_loop(output, title, result)
    _say(f"Wrote {output}: {context} steps of a new episode observed, the next {len(rows) - context} imagined.")
    if result.truth:
        _say("Look at how long the imagined stays with the truth after the context: so far it foresaw this episode.")
    else:
        _say(
            "Look at where the latent error rises above the dashed line for good: beyond, no change is a better guess."
        )
    return result


def newest_model(recipe: loop.Recipe, run: RunDirectory) -> tuple[loop.RunConfig, WorldModel, int]:
    """A run's configuration, the model of its newest checkpoint, and the agent steps that made it."""
    config = loop.read_config(recipe, run)
    folder = run.checkpoints.latest()
    torch.set_num_threads(config.threads)
    model = find_preset(f"{recipe.name}:tiny")[0].model_class.from_pretrained(folder / "model")
    model.to(config.device).eval()
    return config, model, int(folder.name.rpartition("_")[2])


def _say(line: str) -> None:
    Console(soft_wrap=True).print(line, markup=False, highlight=False)
