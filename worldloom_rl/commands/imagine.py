"""`worldloom imagine`: what a run's model foresees of a new episode, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldloom_rl.commands.console import say
from worldloom_rl.commands.ranges import Seed, in_range
from worldloom_rl.config import Limits

if TYPE_CHECKING:
    from worldloom_rl.commands.trained import TrainedRun

_HORIZON = 50  # steps imagined where none are asked for and the episode is long enough


@in_range
def imagine(
    run: Annotated[Path, tyro.conf.Positional],
    context: Annotated[int, Limits(1, 10_000)] = 5,
    horizon: Annotated[int, Limits(1, 10_000)] | None = None,
    samples: Annotated[int, Limits(1, 10_000)] = 8,
    memories: Annotated[int, Limits(0, 100_000)] = 0,
    seed: Seed = 0,
    output: Path | None = None,
    task: str | None = None,
    trust: bool = False,
) -> None:
    """Draw what the newest checkpoint of a run imagines against what happens in a new episode.

    Args:
        run: the run directory.
        context: steps that the model observes before it imagines.
        horizon: steps that it then imagines; by default 50, or fewer if the episode ends before.
        samples: imagined futures, drawn as a band.
        memories: agent steps of new episodes out of which a model that decodes no image shows what it imagines, in an
            animation: what was seen at the nearest latent. The simulator must render; 0 leaves it out.
        seed: of the environment, the policy and the samples.
        output: where to write the picture; by default imagination.png in the run directory.
        task: which to play of a run that knows several; by default the one in which its last evaluation was worst.
        trust: the run is somebody else's, and may import the module that its config.json names, now and later.
    """
    from worldloom_rl.commands.trained import newest, of_one_task
    from worldloom_rl.report.examination import seed_draws
    from worldloom_rl.report.open_loop import open_loop
    from worldloom_rl.report.open_loop_picture import animate_open_loop, draw_open_loop
    from worldloom_rl.training.run_directory import IMAGINATION_FILE

    trained = of_one_task(newest(run, trust=trust), task)
    seed_draws(trained.model, seed)
    most = context + (horizon or _HORIZON)
    rows = trained.recipe.new_rows(trained.config, trained.model, seed, most).to(trained.config.device)
    if len(rows) < context + (horizon or 1):
        raise ValueError(
            f"The episode of seed {seed} has {len(rows)} observations, but context {context} and horizon "
            f"{horizon or 1} need {context + (horizon or 1)}; lower them or try another seed."
        )
    result = open_loop(trained.model, rows, context=context, samples=samples)
    output = output or run / IMAGINATION_FILE
    title = (
        f"{trained.recipe.title} {trained.config.preset} on {trained.played} after {trained.experience}\n"
        f"a new episode (seed {seed}): {context} steps observed, {len(rows) - context} imagined"
    )
    draw_open_loop(output, title, result)
    if any(value.dim() == 4 for value in result.truth.values()):
        animation = output.with_suffix(".gif")
        animate_open_loop(animation, result)
        say(f"Wrote {animation}: the same as an animation, truth | imagined | error.")
    elif memories:
        _animate_memories(trained, output.with_suffix(".gif"), memories, context, len(rows) - context, seed)
    say(f"Wrote {output}: {context} steps of a new episode observed, the next {len(rows) - context} imagined.")
    if result.truth:
        say("Look at how long the imagined stays with the truth after the context: so far it foresaw this episode.")
    else:
        say("Look at where the latent error rises above the dashed line for good: beyond, no change is a better guess.")


def _animate_memories(trained: TrainedRun, file: Path, memories: int, context: int, horizon: int, seed: int) -> None:
    """The world beside the nearest memories of a dream in which the agent plays, as an animation."""
    from worldloom_rl.data.memories import LABEL
    from worldloom_rl.report.nearest_memories import dream_beside_the_world

    session = dream_beside_the_world(
        trained.recipe, trained.config, trained.model, context=context, horizon=horizon, memories=memories, seed=seed
    )
    session.save_gif(file)
    say(f"Wrote {file}: the world | what the model dreams after {context} steps while the agent plays ({LABEL}).")
