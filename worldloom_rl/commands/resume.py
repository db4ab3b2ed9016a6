"""`worldloom resume`: a run goes on from its newest checkpoint, or an earlier one, and further than it was to go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from worldloom_rl.commands.ranges import StepCount, in_range
from worldloom_rl.config import Limits
from worldloom_rl.training.options import MOST_STEPS


@in_range
def resume(
    run: Annotated[Path, tyro.conf.Positional],
    steps: StepCount | None = None,
    start: Annotated[Annotated[int, Limits(0, MOST_STEPS)] | None, tyro.conf.arg(name="from")] = None,
    trust: bool = False,
) -> None:
    """Go on from the newest checkpoint of a run.

    Args:
        run: the run directory.
        steps: of the whole run now, if it shall go further than it was told at first; it ends as if told so then.
        start: go back to the checkpoint of that many steps; what the run did after it is removed.
        trust: the run is somebody else's, and may import the module that its config.json names, now and later.
    """
    from worldloom_rl.commands.finish import finish_run
    from worldloom_rl.commands.trained import open_run
    from worldloom_rl.training import loop
    from worldloom_rl.training.meeting import joined

    with joined():
        finish_run(loop.resume(*open_run(run, trust=trust), steps=steps, start=start).path)
