"""What `gymnasium.make("worldloom/Dream-v0", …)` and `make_vec` call: dreams of a run, a name or a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDictBase

from worldloom_rl.auto import AutoWorldModel
from worldloom_rl.commands.trained import TrainedRun, newest, of_one_task
from worldloom_rl.config import Json
from worldloom_rl.data.episode_latents import episode_latents
from worldloom_rl.data.run_episodes import is_run, open_run
from worldloom_rl.envs import make_env
from worldloom_rl.envs.dream import DreamEnv, DreamVectorEnv, RealResets, Starts, StoredLatents, require_rewards
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class DreamOptions(TypedDict, total=False):
        """What a dream is told beside its model and its horizon."""

        observations: str
        starts: str | TensorDictBase
        ending: str
        env: str | None
        task: str | None
        trust: bool


_STORED = 2048  # rows of a replay that dreams begin at


def make_dream(
    model: str | Path | WorldModel, horizon: int, *, render_mode: None = None, **options: Unpack[DreamOptions]
) -> DreamEnv:
    """A dream of `horizon` steps; see `_opened` for the options."""
    return DreamEnv(horizon=horizon, **_opened(model, **options))


def make_dreams(
    model: str | Path | WorldModel,
    horizon: int,
    *,
    num_envs: int = 1,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: None = None,
    **options: Unpack[DreamOptions],
) -> DreamVectorEnv:
    """Dreams side by side, which one tensor step of the model moves on."""
    return DreamVectorEnv(
        num_envs=num_envs, horizon=horizon, autoreset_mode=AutoresetMode(autoreset_mode), **_opened(model, **options)
    )


def _opened(
    given: str | Path | WorldModel,
    *,
    observations: str = "features",
    starts: str | TensorDictBase = "reset",
    ending: str = "mode",
    env: str | None = None,
    task: str | None = None,
    trust: bool = False,
) -> dict[str, Json]:
    """The arguments of `DreamEnv` by name.

    Args:
        given: a run, of which the newest checkpoint dreams, a name of `AutoWorldModel`, or a model.
        observations: "features" of the latent, or the "decoded" observation.
        starts: "reset" begins where the real environment does, "replay" at rows of the run's replay; or a tensordict of
            latents [N].
        ending: "mode" ends a dream where that is likelier than going on; "sample" draws it.
        env: name of the environment that is reset; by default the run's.
        task: of several that a run knows; by default the one in which it was worst.
        trust: the run is somebody else's, and may import the module that its config.json names, now and later.
    """
    path = None if isinstance(given, WorldModel) else Path(given)
    run = None
    if path is not None and is_run(path):
        threads = torch.get_num_threads()  # those of the run are for its own process
        run = of_one_task(newest(path, trust=trust), task)
        torch.set_num_threads(threads)
    model = given if isinstance(given, WorldModel) else run.model if run else AutoWorldModel.from_pretrained(given)
    require_rewards(model)
    return {
        "model": model,
        "starts": _starts(model, run, starts, env),
        "view": observations,
        "ending": ending,
    }


def _starts(model: WorldModel, run: TrainedRun | None, starts: str | TensorDictBase, env: str | None) -> Starts:
    if not isinstance(starts, str):
        return StoredLatents(model, starts)
    if starts == "replay" and run is not None:
        episodes = open_run(run.directory.path)
        return StoredLatents(model, episode_latents(model, episodes, _STORED, seed=0))
    if starts == "reset" and env is not None:
        return RealResets(model, make_env(env))
    if starts == "reset" and run is not None:
        return RealResets(model, run.config.make_env(1, run.config.seed))
    if starts in ("replay", "reset"):
        raise ValueError(
            f"starts={starts!r} needs a run of its own; of a model alone, dreams begin at a tensordict of latents, or "
            'where an environment does: env="Pendulum-v1".'
        )
    raise ValueError(f'Dreams begin by starts="reset", "replay" or a tensordict of latents, got {starts!r}.')
