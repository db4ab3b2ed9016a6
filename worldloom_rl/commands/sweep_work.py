"""The work of a sweep: its runs as tasks of Ray, each of which begins, goes on, or was finished before."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Mapping
from pathlib import Path

from worldloom_rl.commands.console import say, typed
from worldloom_rl.commands.faults import fault_of
from worldloom_rl.commands.finish import is_told
from worldloom_rl.commands.recipes import recipe_for
from worldloom_rl.commands.sweep_table import FAILED, FINISHED, STOPPED, Outcome, Row, SweepTable
from worldloom_rl.commands.train import train_family
from worldloom_rl.training.interruption import Interrupted, Interruption
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.owner import Owner
from worldloom_rl.training.ray_tasks import Cluster, Lost, Tasks, cluster
from worldloom_rl.training.train_or_resume import is_finished


def work_through(
    family: str, runs: Mapping[str, RunConfig], directory: Path, *, address: str | None, cpus: float, gpus: float
) -> None:
    """Finishes the runs, shows them meanwhile, and says what to do next.

    Args:
        runs: configurations by the names of their directories in `directory`.
        address, cpus, gpus: see `cluster` and `Cluster.start`.
    Raises SystemExit 2 if a run failed, 1 if the program is at fault, and ends as a signal does that came.
    """
    directory.mkdir(parents=True, exist_ok=True)
    owner = Owner(directory)  # one sweep at a time
    try:
        rows = {name: Row(directory / name) for name in runs}
        for name, row in rows.items():
            if row.progress.finished and _was_finished(family, runs[name]):
                row.outcome = Outcome(FINISHED)
        left = {name: (family, runs[name], os.getcwd()) for name, row in rows.items() if row.outcome is None}
        say(f"{len(runs)} runs in {directory}, {len(left)} of them to be made; what they say: *.log there.")
        table = SweepTable(rows)
        if left:
            # What Ray prints of processes that died would stand between the rows.
            with open(directory / "ray.log", "a") as notes, contextlib.redirect_stdout(notes), cluster(address) as ray:
                _follow(ray, left, table, cpus, gpus)
        else:
            table.end()
    finally:
        owner.release()
    say(f"Next:\n  {typed('compare', directory)}")
    outcomes = [row.outcome for row in rows.values() if row.outcome]
    if any(outcome.state != FINISHED for outcome in outcomes):
        raise SystemExit(1 if any(outcome.ours for outcome in outcomes) else 2)


def _follow(
    ray: Cluster, left: Mapping[str, tuple[str, RunConfig, str]], table: SweepTable, cpus: float, gpus: float
) -> None:
    """Shows the runs until all came to an end. The first signal lets them save."""
    with Interruption() as interruption:
        tasks = ray.start(work, left, cpus, gpus)
        with table:
            try:
                while tasks:
                    table.update()
                    interruption.check()
                    _settle(tasks, table)
            except Interrupted as interrupted:
                table.say("Stopping: the runs save where they are. Once more, and they are ended at once.")
                tasks.cancel()
                while tasks:
                    _settle(tasks, table)
                    table.update()
                table.say("Stopped. The same command goes on with what is left.")
                interrupted.end()


def _settle(tasks: Tasks[Outcome], table: SweepTable) -> None:
    for name, result in tasks.ended(seconds=1.0):
        table.settle(name, Outcome(FAILED, str(result)) if isinstance(result, Lost) else result or Outcome(STOPPED))


def _was_finished(family: str, config: RunConfig) -> bool:
    """Whether this very run was finished before. If not, its own process finds out what is there."""
    with contextlib.suppress(ValueError):
        return is_finished(recipe_for(family, config), config) and is_told(Path(config.run_directory or ""))
    return False


def work(family: str, config: RunConfig, directory: str) -> Outcome:
    """How a run ended that this process began or went on with, in that working directory if it is there.

    What it says goes to a file beside the run's directory.
    """
    with contextlib.suppress(OSError):
        os.chdir(directory)
    with (
        open(f"{config.run_directory}.log", "a", encoding="utf-8", errors="backslashreplace", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            train_family(family, config, go_on=True)
        except Exception as error:  # noqa: BLE001  # of whatever kind: it is this run's, and others go on
            traceback.print_exc(file=log)
            fault = fault_of(error)
            whose = "a fault of worldloom: " if fault.ours else ""
            return Outcome(FAILED, f"{whose}{fault.text} ({log.name})", fault.ours)
    return Outcome(FINISHED)
