"""This tree beside another one, such as a commit before it: the same work in turn, each in processes of its own."""

from __future__ import annotations

import json as json_format
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from speed import measure, table
from speed.catalogue import WORKLOADS, find
from speed.command import about_this_run
from speed.workload import Mode
from worldloom_rl.config import Json

_FOLDER = Path(__file__).parents[1]


@dataclass
class Tree:
    """A tree and what was measured of it: (milliseconds, GFLOP/s of the yardstick) a round."""

    name: str
    root: Path
    mode: Mode
    provenance: dict[str, Json] = field(default_factory=dict)
    rounds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def start(self, stack: ExitStack, seed: int, names: tuple[str, ...]) -> None:
        """A process whose work is built and warm; it ends with the stack. Raises SystemExit where it ends before."""
        command = [sys.executable, str(_FOLDER / "tree.py"), self.mode, str(seed), *names]
        pipe = subprocess.PIPE
        self._process = stack.enter_context(
            subprocess.Popen(command, env=environ(self.root), text=True, stdin=pipe, stdout=pipe)
        )
        self.provenance = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if not (told := self._process.stdout.readline()):
            raise SystemExit(f"{self.root} could not be measured: its process ended, and said above why.")
        return json_format.loads(told)

    def time(self, name: str) -> None:
        """Do a piece of work once more."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        told = self._answer()
        if told is not None:
            self.rounds.setdefault(name, []).append(tuple(told))


def environ(root: Path) -> dict[str, str]:
    """The environment of a process that imports the package of a tree, and the workloads from here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(_FOLDER)])}


def run(
    before: Annotated[Path, tyro.conf.Positional],
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    rounds: int = 3,
    processes: int = 3,
    compile: bool = False,
    json: Path | None = None,
    memory: bool = True,
    seed: int = 0,
) -> None:
    """Measure this tree beside another one, such as `git worktree add ../before COMMIT` makes.

    In each round every piece of work is done once by both, in turn, each time between two calibrations. Where a process
    has its memory makes it faster or slower by some hundredths for as long as it lives, so each tree gets several.
    Prints the other tree's CPU time over this one's, median, least and greatest of all rounds, and both memory peaks.

    Args:
        before: root of the other tree.
        names: of workloads; all by default.
        rounds: of each process; each times every workload once in each tree.
        processes: that each tree gets, one after another.
        compile: measure this tree compiled too.
        json: file for what was measured.
        memory: measure peak memory too, each in a process of its own.
        seed: of weights and data.
    """
    names = tuple(find(name).name for name in names or WORKLOADS)
    if not (before / "worldloom_rl").is_dir():
        raise SystemExit(f"{before} is not the root of a tree of this project: there is no {before / 'worldloom_rl'}.")
    here = _FOLDER.parents[1]
    wanted: list[tuple[str, Path, Mode]] = [("before", before.resolve(), "eager"), ("now", here, "eager")]
    if compile:
        wanted.append(("now, compiled", here, "compiled"))
    trees = [Tree(*each) for each in wanted]
    for start in range(processes):
        with ExitStack() as stack:
            for tree in trees if start % 2 == 0 else trees[::-1]:
                tree.start(stack, seed, names)
            for number in range(rounds):
                for name in names:
                    for tree in trees if number % 2 == 0 else trees[::-1]:
                        tree.time(name)
    about = about_this_run()
    records = [
        {**record, **about, **tree.provenance} for name in names for tree, record in _rows(name, trees, memory, seed)
    ]
    print(_markdown(records))
    if json is not None:
        json.write_text(json_format.dumps(records, indent=1) + "\n")


def _rows(name: str, trees: list[Tree], memory: bool, seed: int) -> Iterator[tuple[Tree, dict[str, Json]]]:
    first = trees[0].rounds.get(name, [])
    for tree in trees:
        found = tree.rounds.get(name, [])
        if not found:
            continue
        milliseconds = [each[0] for each in found]
        ratios = [old[0] / new for old, new in zip(first, milliseconds, strict=True)]
        peak = None
        if memory:
            peak = measure.peak_gb(name, mode=tree.mode, by="worldloom", seed=seed, environ=environ(tree.root))
        spreads = {"cpu_ms": milliseconds, "before_over_this": ratios}
        yield (
            tree,
            {
                **{"workload": name, "by": tree.name, "mode": tree.mode, "peak_gb": peak, "milliseconds": milliseconds},
                "gflop_per_second": [each[1] for each in found],
                **{key: table.spread_of(values) for key, values in spreads.items()},
            },
        )


def _markdown(records: list[dict[str, Json]]) -> str:
    lines = ["| workload | tree | CPU ms | before over this, median | min | max | peak GB |", "|---" * 7 + "|"]
    for record in records:
        ratio, ms = record["before_over_this"], record["cpu_ms"]
        peak = "" if record["peak_gb"] is None else f"{record['peak_gb']:.2f}"
        cells = [record["workload"], record["by"], f"{ms['median']:.4g}"]
        cells += [f"{ratio[key]:.2f}" for key in ("median", "min", "max")]
        lines.append(f"| {' | '.join([*cells, peak])} |")
    return "\n".join(lines)
