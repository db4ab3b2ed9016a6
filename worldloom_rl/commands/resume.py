"""`worldloom resume`: a run goes on from its newest checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def resume(run: Annotated[Path, tyro.conf.Positional], trust: bool = False) -> None:
    """Go on from the newest checkpoint of a run.

    Args:
        run: the run directory.
        trust: the run is somebody else's, and may import the module that its config.json names, now and later.
    """
    from worldloom_rl.commands.finish import finish_run
    from worldloom_rl.commands.trained import open_run
    from worldloom_rl.training import loop

    finish_run(loop.resume(*open_run(run, trust=trust)).path)
