"""What is done with a run besides training it: `worldloom eval`, `imagine` and `report`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from tensordict.nn import TensorDictSequential
from torch import Tensor

from worldloom_rl.atomic import write_json
from worldloom_rl.auto import AutoWorldModel
from worldloom_rl.envs import episode_length
from worldloom_rl.functional.statistics import bootstrap_interval, interquartile_mean, score_text
from worldloom_rl.models.tdmpc2 import PolicyPrior
from worldloom_rl.noise import GeneratorNoise, Noise
from worldloom_rl.pretrained.hub import model_card
from worldloom_rl.pretrained.model_card import model_card
from worldloom_rl.recipes import loop
from worldloom_rl.report.model_findings import Finding, judge, verdict_text
from worldloom_rl.report.model_report import Evidence, gather_evidence
from worldloom_rl.report.model_report_page import write_report
from worldloom_rl.report.open_loop import OpenLoop, animate_open_loop, draw_open_loop, open_loop
from worldloom_rl.report.report_episodes import Episodes, play_streams
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import agent_steps_of, updates_of
from worldloom_rl.training.clock import Counts
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.recipe import Recipe
from worldloom_rl.training.run_directory import (
    CURVE_FILE,
    IMAGINATION_FILE,
    RESULT_FILE,
    RunDirectory,
    provenance,
)
from worldloom_rl.world_model import Latent, WorldModel

_RANDOM_STEPS = 20  # most random actions before the policy plays on


def evaluate_run(recipe: Recipe, run: RunDirectory, episodes: int, seeds: Sequence[int]) -> list[Evaluation]:
    """Episodes played with a run's newest checkpoint for each seed, also written to evaluation-seed<seed>.json there.

    Raises ValueError if there is no seed or one is named twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"An evaluation needs at least one seed and each only once, got {list(seeds)}.")
    config, model, agent_steps = newest_model(recipe, run)
    evaluations = []
    for seed in seeds:
        torch.manual_seed(seed)
        evaluation = loop.assess(recipe, config, model, episodes, agent_steps, seed)
        file = run.path / f"evaluation-seed{seed}.json"
        mean = {"mean_return": evaluation.mean_return} if evaluation.returns else {}
        write_json(file, {**dataclasses.asdict(evaluation), **mean, **provenance()})
        evaluations.append(evaluation)
        told = f"mean return {score_text(evaluation.mean_return)}" if evaluation.returns else str(evaluation)
        _say(f"seed {seed}: {told}. Written to {file}")
    if not all(evaluation.returns for evaluation in evaluations):
        _say(f"No episode was played: {config.task} gives no goals to plan to.")
        return evaluations
    strata = [evaluation.returns for evaluation in evaluations]
    returns = [score for scores in strata for score in scores]
    successes = [success for evaluation in evaluations for success in evaluation.successes]
    success = f", success rate {sum(successes) / len(successes):.2f}" if successes else ""
    low, high = bootstrap_interval(strata)
    _say(
        f"{config.env} after {_experience(recipe, run)}, {len(returns)} episodes: "
        f"mean return {score_text(sum(returns) / len(returns))} "
        f"(from {score_text(min(returns))} to {score_text(max(returns))}), interquartile mean "
        f"{score_text(interquartile_mean(returns))} (95 % interval {score_text(low)} to {score_text(high)}){success}"
    )
    return evaluations


def imagine_run(
    recipe: Recipe, run: RunDirectory, *, context: int, horizon: int | None, samples: int, seed: int, output: Path
) -> OpenLoop:
    """A new episode under the run's policy, its first rows observed and the next imagined, also drawn to `output`.

    Args:
        context: rows that the model observes; it imagines the next `horizon`, by default 50 or as many as there are.
    Raises ValueError if these do not fit the episode.
    """
    for name, value in (("context", context), ("horizon", horizon), ("samples", samples)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    config, model, _ = newest_model(recipe, run)
    _seed(model, config.device, seed)
    rows = recipe.new_rows(config, model, seed, context + (horizon or 50)).to(config.device)
    if len(rows) < context + (horizon or 1):
        raise ValueError(
            f"The episode of seed {seed} has {len(rows)} observations, but context {context} and horizon "
            f"{horizon or 1} need {context + (horizon or 1)}; lower them or try another seed."
        )
    result = open_loop(model, rows, context=context, samples=samples)
    title = (
        f"{recipe.title} {config.preset} on {config.task} after {_experience(recipe, run)}\n"
        f"a new episode (seed {seed}): {context} steps observed, {len(rows) - context} imagined"
    )
    draw_open_loop(output, title, result)
    if any(value.dim() == 4 for value in result.truth.values()):
        animation = output.with_suffix(".gif")
        animate_open_loop(animation, result)
        _say(f"Wrote {animation}: the same as an animation, truth | imagined | error.")
    _say(f"Wrote {output}: {context} steps of a new episode observed, the next {len(rows) - context} imagined.")
    if result.truth:
        _say("Look at how long the imagined stays with the truth after the context: so far it foresaw this episode.")
    else:
        _say(
            "Look at where the latent error rises above the dashed line for good: beyond, no change is a better guess."
        )
    return result


class Valued(NamedTuple):
    """What a report asks a family's value head, and under which policies its values may hold."""

    value: Callable[[Latent, Noise], Tensor]  # [..., 1] of latents
    gamma: float
    own: str  # what the run's policy is called; a planner if there is another
    other: str  # and the policy that plays on after random steps
    make_other: Callable[[], TensorDictSequential] | None = None  # by default the run's policy


def _critic_values(model: Any) -> Valued:
    critic = model.behavior.critic
    return Valued(
        lambda latent, noise: critic.mean(critic(model.latent_features(latent))),
        model.config.discount,
        "the actor",
        "the actor",
    )


def _tdmpc2_values(model: Any) -> Valued:
    """The Qs learn from actions of the policy prior, which neither a wrong reward nor wrong dynamics lead astray."""
    return Valued(
        lambda latent, noise: model.behavior.value(model.latent_features(latent), model.action_mask(latent), noise),
        model.config.discount,
        "the planner",
        "the policy prior",
        lambda: TensorDictSequential(model.encode, PolicyPrior(model)),
    )


_VALUES: Mapping[str, Callable[[Any], Valued]] = {
    "dreamerv3": _critic_values,
    "tdmpc2": _tdmpc2_values,
    "tokens": _critic_values,
}


def report_run(recipe: Recipe, run: RunDirectory, *, episodes: int, steps: int, seed: int) -> list[Finding]:
    """What the parts of a run's newest model predict in new episodes against what came, also as RUN/report/index.html.

    Args:
        episodes: environments that the run's policy plays; twice as many are played with random actions.
        steps: agent steps in each of them, at most as long as an episode may last.
    Raises ValueError for less than one episode or two steps.
    """
    for name, value, least in (("episodes", episodes, 1), ("steps", steps, 2)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    if recipe.name not in _VALUES:
        raise ValueError(
            f"A report judges what a model says of rewards, ends and values, of which {recipe.title} learns nothing. "
            f"See how far its latents foresee: worldloom imagine {run.path}, and {CURVE_FILE} there."
        )
    config, model, agent_steps = newest_model(recipe, run)
    played = play_for_report(recipe, config, model, episodes=episodes, steps=steps, seed=seed)
    evidence = examine(recipe, model, played, seed=seed)
    findings = judge(evidence)
    valued = _VALUES[recipe.name](model)
    starts = int((played.rows[model.key_map.is_init].squeeze(-1) & played.valid).sum())
    facts = {
        "model": f"{recipe.title} {config.preset} after {agent_steps} agent steps on {config.env}",
        "episodes": f"{starts} new ones, whole or cut after {steps} agent steps, {int(played.valid.sum())} "
        f"observations in all (seed {seed}): in {episodes} environments {valued.own} played; in {episodes} "
        f"{valued.other} played on after up to {_RANDOM_STEPS} random actions; in {episodes} all actions were random",
        "terminal states": f"{int(played.rows[model.key_map.terminated].sum())} of these episodes ended in one",
        "imagination": f"from {len(evidence.imagined.alive)} of these observations, along the actions that were taken",
        "unit": "100 % of the variance is the mean squared error of always foreseeing the average",
    }
    title = f"{recipe.title} on {config.env}: model report"
    file = write_report(run.path / "report", title, facts, evidence, findings)
    for finding in findings:
        _say(f"{finding.part}: {finding.verdict}. {finding.text}")
    _say(f"{verdict_text(findings)} The page with pictures: {file}")
    return findings


def play_for_report(
    recipe: Recipe, config: RunConfig, model: WorldModel, *, episodes: int, steps: int, seed: int
) -> Episodes:
    """New episodes to judge a model by: of the run's policy, of one that goes on after random actions, and of those."""
    _seed(model, config.device, seed)
    valued = _VALUES[recipe.name](model)
    own = recipe.make_policy(model)
    other = valued.make_other() if valued.make_other else own
    env = config.make_env(episodes, seed)
    steps = min(episode_length(env), steps)
    none = torch.zeros(episodes, dtype=torch.int64)
    first = torch.linspace(0, _RANDOM_STEPS, episodes).round().long()
    streams = {valued.own: play_streams(model, env, own, steps=steps, random_steps=none)}
    disturbed = config.make_env(2 * episodes, seed + episodes)
    streams.setdefault(valued.other, []).extend(
        play_streams(model, disturbed, other, steps=steps, random_steps=torch.cat([first, none + steps]))
    )
    planner = valued.own if valued.make_other else None
    return Episodes.beside_each_other(streams, model.key_map.is_init, planner).to(config.device)


def examine(recipe: Recipe, model: WorldModel, played: Episodes, *, seed: int) -> Evidence:
    """What a model of a recipe predicts in episodes against what came."""
    _seed(model, played.valid.device, seed)
    valued = _VALUES[recipe.name](model)
    generator = torch.Generator().manual_seed(seed)
    return gather_evidence(model, valued.value, played, gamma=valued.gamma, generator=generator)


def _seed(model: WorldModel, device: torch.device | str, seed: int) -> None:
    torch.manual_seed(seed)
    model.noise = GeneratorNoise(torch.Generator(device).manual_seed(seed))


def finish_run(recipe: Recipe, run: RunDirectory) -> RunDirectory:
    """Draw what the trained model foresees, write the model card, and say where to look and what to do next."""
    seed = loop.read_config(recipe, run).seed
    picture = run.path / IMAGINATION_FILE
    try:
        imagine_run(recipe, run, context=5, horizon=None, samples=8, seed=seed, output=picture)
    except ValueError as error:  # an episode too short for a context
        _say(f"No picture of imagination: {error}")
    model = run.checkpoints.latest() / "model"
    result = json.loads((run.path / RESULT_FILE).read_text())
    played = result if result["final_returns"] else None
    card = model_card(str(run.path), json.loads((model / "config.json").read_text()), result["parameters"], played)
    (run.path / "README.md").write_text(card)
    weak = f"  worldloom report {run.path}   find which part of the model is weak\n" * (recipe.name in _VALUES)
    drawn = f"{IMAGINATION_FILE}, " if picture.exists() else ""
    _say(
        f"{run.path} holds {CURVE_FILE}, {drawn}README.md (the model card), {RESULT_FILE}, logs and "
        f"checkpoints.\nNext:\n  worldloom eval {run.path}     "
        f"{'play more episodes, with an interval' if played else 'measure its predictions again'}\n"
        f"  worldloom imagine {run.path}  draw what it foresees in another episode (--seed 1)\n{weak}"
        f"  worldloom resume {run.path}   go on from the newest checkpoint, if a run was stopped"
    )
    return run


def newest_model(recipe: Recipe, run: RunDirectory) -> tuple[RunConfig, WorldModel, int]:
    """A run's configuration, the model of its newest checkpoint, and the agent steps that made it."""
    config = loop.read_config(recipe, run)
    folder = run.checkpoints.latest()
    torch.set_num_threads(config.threads)
    model = AutoWorldModel.from_pretrained(folder / "model")
    model.to(config.device).eval()
    return config, model, agent_steps_of(folder)


def _experience(recipe: Recipe, run: RunDirectory) -> str:
    """What the newest checkpoint learned from, counted as the recipe does."""
    folder = run.checkpoints.latest()
    return f"{recipe.clock.count(Counts(agent_steps_of(folder), updates_of(folder)))} {recipe.clock.words}"


def _say(line: str) -> None:
    Console(soft_wrap=True).print(line, markup=False, highlight=False)
