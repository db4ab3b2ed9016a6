"""The world of a run, drawn for a person."""

from __future__ import annotations

import gymnasium

from worldloom_rl.envs.drawn_world import DrawnWorld, decoded_image
from worldloom_rl.envs.rendering import render_without_display
from worldloom_rl.training.options import RunConfig
from worldloom_rl.world_model import WorldModel


def open_world(config: RunConfig, model: WorldModel, seed: int) -> DrawnWorld:
    """The world of a run. Raises ValueError if there is none, or nothing to show of it."""
    if not config.env and not config.tasks:
        raise ValueError(f"The run learned {config.task} from recorded episodes: there is no environment to play in.")
    image = decoded_image(model)
    if image is None:
        render_without_display()
    env = None
    try:
        env = config.make_env(1, seed) if image is not None else config.make_drawn_env(seed)
        world = DrawnWorld(env, model, image)
        world.begin()
    except (ValueError, ImportError, gymnasium.error.Error) as error:
        if env is not None:
            env.close()
        if image is not None:
            raise
        raise ValueError(
            f"{config.task} cannot be drawn, and the model decodes no image, so there is nothing to look at: "
            f"{str(error)[:300]}"
        ) from error
    return world
