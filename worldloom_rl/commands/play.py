"""`worldloom play`: a run's world and its model's dream in a browser, under a person's keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldloom_rl.commands.console import say
from worldloom_rl.commands.ranges import Seed, in_range
from worldloom_rl.config import Limits
from worldloom_rl.extras import require_installed

if TYPE_CHECKING:
    from worldloom_rl.commands.trained import TrainedRun
    from worldloom_rl.world_model import WorldModel


@in_range
def play(
    run: Annotated[Path, tyro.conf.Positional],
    host: str = "127.0.0.1",
    port: Annotated[int, Limits(0, 65535)] = 0,
    memories: Annotated[int, Limits(1, 100_000)] = 400,
    seed: Seed = 0,
    task: str | None = None,
    trust: bool = False,
) -> None:
    """Play in a run's world and in its model's dream, side by side, on a page in a browser.

    A run that is still in training is played with its newest checkpoint; a newer one is taken where an episode begins.

    Args:
        run: the run directory; nothing is written to it.
        host: address to serve the page at; another than this machine's own lets others reach it who know the token.
        port: to serve it at; 0 takes any that is free.
        memories: agent steps of new episodes out of which a dream is shown that the model cannot draw.
        seed: of the environment, the agent and the dream.
        task: which to play of a run that knows several; by default the one in which its last evaluation was worst.
        trust: the run is somebody else's, and may import the module that its config.json names, now and later.
    """
    for package in ("starlette", "uvicorn", "websockets"):
        require_installed(package, extra="play", why=f"Playing in a browser needs {package}")
    import secrets

    from worldloom_rl.commands.trained import newest, of_one_task
    from worldloom_rl.play.server import address, listen, serve
    from worldloom_rl.play.session import Session

    trained = of_one_task(newest(run, trust=trust), task)
    title = f"{trained.recipe.title} {trained.config.preset} on {trained.played} after {trained.experience}"
    with listen(host, port) as listening:
        newer = _Newer(trained)
        session = Session(
            trained.recipe, trained.config, trained.model, seed=seed, memories=memories, newer=newer
        )  # fmt: skip
        try:
            token = secrets.token_urlsafe(16)
            say(f"{title}. Open {address(listening, token)} in a browser; Ctrl-C ends the session.")
            serve(session, title, listening, token)
        finally:
            session.close()


class _Newer:
    """The model of the run's newest checkpoint, once, where training has written one since the last call."""

    def __init__(self, trained: TrainedRun) -> None:
        self.checkpoints = trained.directory.checkpoints
        self.known = self.checkpoints.latest()

    def __call__(self) -> WorldModel | None:
        from worldloom_rl.auto import AutoWorldModel

        latest = self.checkpoints.latest()
        if latest == self.known:
            return None
        try:
            model = AutoWorldModel.from_pretrained(latest / "model")
        except FileNotFoundError:  # training has dropped it meanwhile; there is a newer one the next time
            return None
        self.known = latest
        return model
