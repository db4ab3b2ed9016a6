"""`worldloom report`: which part of a run's model is at fault."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldloom_rl.commands.console import say, typed
from worldloom_rl.commands.ranges import EpisodeCount, Seed, in_range
from worldloom_rl.config import Limits
from worldloom_rl.training.options import MOST_STEPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from worldloom_rl.commands.trained import TrainedRun
    from worldloom_rl.report.examination import ValueHead
    from worldloom_rl.report.report_episodes import Episodes

_SEEN, _DREAMT = 5, 15  # observations before the dream that is shown, and its steps


@in_range
def report(
    run: Annotated[Path, tyro.conf.Positional],
    episodes: EpisodeCount = 8,
    steps: Annotated[int, Limits(2, MOST_STEPS)] = 200,
    memories: Annotated[int, Limits(0, 100_000)] = 400,
    ensemble_updates: Annotated[int, Limits(0, 100_000)] = 500,
    seed: Seed = 0,
    task: str | None = None,
    trust: bool = False,
) -> None:
    """Find out which part of a run's model is at fault: a page of findings and pictures from new episodes.

    Args:
        run: the run directory; the page is written to report/index.html in it.
        episodes: environments that the run's policy plays; twice as many are played with random actions.
        steps: agent steps in each of them; fewer if an episode can't last that long.
        memories: agent steps of further episodes out of which a model that decodes no image shows what it dreams: what
            was seen at the nearest latent; 0 leaves it out.
        ensemble_updates: of predictors of the next latent, from rows that the model learned from: where they disagree
            it has seen little; 0 leaves it out.
        seed: of the environments, the policy and the samples.
        task: which to play of a run that knows several; by default the one in which its last evaluation was worst.
        trust: the run is somebody else's, and may import the module that its config.json names, now and later.
    """
    from worldloom_rl.commands.trained import newest, of_one_task, open_run
    from worldloom_rl.report.examination import VALUE_HEADS, examine, play_for_report
    from worldloom_rl.report.model_findings import judge, verdict_text, without_value
    from worldloom_rl.report.model_report_page import write_report
    from worldloom_rl.training.run_directory import CURVE_FILE

    recipe, _ = open_run(run, trust=trust)
    if recipe.name not in VALUE_HEADS:
        raise ValueError(
            f"A report judges what a model says of rewards, ends and values, of which {recipe.title} learns nothing. "
            f"See how far its latents foresee: {typed('imagine', run)}, and {CURVE_FILE} there."
        )
    trained = of_one_task(newest(run), task)
    model, value_head = trained.model, VALUE_HEADS[recipe.name](trained.model, trained.task_number)
    policy, make_env = recipe.make_policy(model), trained.config.make_env
    played = play_for_report(model, value_head, policy, make_env, episodes=episodes, steps=steps, seed=seed)
    evidence = examine(model, value_head, played, seed=seed)
    findings = judge(evidence)
    if trained.config.explore:
        findings = without_value(findings, "the run explored, and it values what is not yet known, not the reward")
    facts = _facts(trained, value_head, played, episodes=episodes, steps=steps, seed=seed)
    facts["imagination"] = (
        f"from {len(evidence.imagined.alive)} of these observations, along the actions that were taken"
    )
    facts["unit"] = "100 % of the variance is the mean squared error of always foreseeing the average"
    drawn = _nearest_memories(trained, facts, memories, seed) if memories else []
    drawn += _disagreement(trained, facts, played, ensemble_updates, seed) if ensemble_updates else []
    title = f"{recipe.title} on {trained.played}: model report"
    file = write_report(run / "report", title, facts, evidence, findings, drawn)
    for finding in findings:
        say(f"{finding.part}: {finding.verdict}. {finding.text}")
    say(f"{verdict_text(findings)} The page with pictures: {file}")


def _nearest_memories(
    trained: TrainedRun, facts: dict[str, str], memories: int, seed: int
) -> list[tuple[str, str, Figure]]:
    """The figure of a dream as nearest memories, where the model decodes no image; if there can be none, a fact."""
    from worldloom_rl.envs.drawn_world import decoded_image
    from worldloom_rl.report.nearest_memories import draw_nearest_memories, dream_beside_the_world

    if decoded_image(trained.model) is not None:
        return []
    played = trained.recipe, trained.config, trained.model
    try:
        session = dream_beside_the_world(*played, context=_SEEN, horizon=_DREAMT, memories=memories, seed=seed)
    except ValueError as error:
        facts["dream as nearest memories"] = f"none: {error}"
        return []
    facts["dream as nearest memories"] = (
        f"out of {len(session.memories)} of new episodes, with those of the dream's world"
    )
    return [draw_nearest_memories(session)]


def _disagreement(
    trained: TrainedRun, facts: dict[str, str], played: Episodes, updates: int, seed: int
) -> list[tuple[str, str, Figure]]:
    """The figure of an ensemble's disagreement beside the model's error; if there can be none, a fact."""
    from worldloom_rl.objectives.disagreement import fit_ensemble
    from worldloom_rl.report.disagreement import doubts, draw_doubts, recorded_rows
    from worldloom_rl.report.examination import seed_draws

    model, config = trained.model, trained.config
    sources = config.data or (str(trained.directory.path),)
    try:
        sample = recorded_rows(sources, config.task_names, config, model, seed)
    except (ValueError, OSError, ImportError) as error:
        facts["disagreement"] = f"none: {error}"
        return []
    seed_draws(model, seed)
    ensemble = fit_ensemble(model, sample, updates=updates)
    return [draw_doubts(doubts(model, ensemble, played), updates)]


def _facts(
    trained: TrainedRun, value_head: ValueHead, played: Episodes, *, episodes: int, steps: int, seed: int
) -> dict[str, str]:
    """What was judged and by which episodes."""
    from worldloom_rl.report.examination import RANDOM_STEPS

    names, count = trained.model.key_map, episodes
    starts = int((played.rows[names.is_init].squeeze(-1) & played.valid).sum())
    made = f"{trained.recipe.title} {trained.config.preset} after {trained.agent_steps} agent steps"
    return {
        "model": f"{made} on {trained.played}",
        "episodes": f"{starts} new ones, whole or cut after {steps} agent steps, {int(played.valid.sum())} "
        f"observations in all (seed {seed}): in {count} environments {value_head.own} played; in {count} "
        f"{value_head.other} played on after up to {RANDOM_STEPS} random actions; in {count} all actions were random",
        "terminal states": f"{int(played.rows[names.terminated].sum())} of these episodes ended in one",
    }
