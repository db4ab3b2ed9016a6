"""What a model that decodes no image dreams, as the nearest memories: an animation, or a figure beside the world."""

from __future__ import annotations

import imageio.v2 as imageio
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldloom_rl.data.memories import LABEL
from worldloom_rl.play import Session
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.recipe import AnyRecipe
from worldloom_rl.world_model import WorldModel

_SHOWN = 8  # moments of a figure


def dream_beside_the_world(
    recipe: AnyRecipe,
    config: RunConfig,
    model: WorldModel,
    *,
    context: int,
    horizon: int,
    memories: int,
    seed: int,
) -> Session:
    """A session, closed, in which the agent played and the dream went on by itself after `context` observations.

    Args:
        horizon: agent steps that are dreamt.
        memories: agent steps of new episodes out of which the dream is shown.
    Raises ValueError where the environment cannot be drawn, or the agent lacks what it needs there.
    """
    session = Session(recipe, config, model, seed=seed, memories=memories)
    try:
        for _ in range(context - 1):
            session.step()
        session.dream_from()
        for _ in range(horizon):
            session.step()
    finally:
        session.close()
    return session


def draw_nearest_memories(session: Session) -> tuple[str, str, Figure]:
    """The dream's moments as a figure, with its name and a caption that says how to read it."""
    dreamt = [moment for moment in session.moments if moment.dreaming]
    steps = np.unique(np.linspace(0, len(dreamt) - 1, _SHOWN).round().astype(int))
    figure = Figure(figsize=(1.3 * len(steps) + 0.6, 3.2), layout="constrained")
    grid = figure.subplots(2, len(steps), squeeze=False)
    for (above, below), step in zip(grid.T, steps, strict=True):
        world, dream = dreamt[step].world, dreamt[step].dream
        _show(above, world and world.picture)
        _show(below, dream.picture)
        above.set_title(f"step {step}", fontsize=8)
        below.set_title(f"distance {dreamt[step].memory:.2f}", fontsize=8)
    grid[0, 0].set_ylabel("the world")
    grid[1, 0].set_ylabel("nearest memory")
    caption = (
        "What the model dreams while its agent plays, beside the world under the same actions; step 0 is the last that "
        f"it observed. The model draws no image, so a dreamt latent is shown as the {LABEL}: what was seen at the "
        "nearest latent of other new episodes. A distance of 1 is that of two memories at random; where it is large, "
        "nothing like the dream was ever seen."
    )
    return "what the model dreams, as nearest memories", caption, figure


def _show(axes: Axes, picture: bytes | None) -> None:
    """A PNG; a gray place where there is none, as the world's episode has ended."""
    axes.set(xticks=[], yticks=[])
    if picture is None:
        axes.set_facecolor("lightgray")
    else:
        axes.imshow(imageio.imread(picture, format="png"))
