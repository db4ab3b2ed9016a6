"""What an environment is to each family of world models, as numbers and as text for a person."""

from __future__ import annotations

import io
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH = 100  # columns of the text
_HANDOVER = 1e-3  # seconds, about, that a round of environments in processes costs the process that learns
_BFLOAT16_PAYS = 0.8  # of float32's time for products, or less: casts and all that is no product eat up the rest


@dataclass(frozen=True)
class Leaf:
    """An observation or action: its key, what the environment has, and what becomes of it."""

    key: str
    given: str
    seen: str


@dataclass(frozen=True)
class Problem:
    """Something that training may suffer from, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Trial:
    """A few steps and updates of a family's smallest preset that reads the environment, measured."""

    row_bytes: float  # of replay, bookkeeping included
    acting_seconds: float  # of an agent step, environment included
    update_seconds: float
    updates_per_step: float
    learning_starts: int  # agent steps before the first update
    pretrains: bool  # the steps before learning count as updates due
    # seconds of a matrix product in bfloat16 over those in float32, on this processor; None where a run has no choice
    bfloat16: float | None = None

    def training_seconds(self, steps: int) -> float:
        """Seconds that so many agent steps in one environment take with their updates, evaluations left out."""
        learned = steps if self.pretrains else max(0, steps - self.learning_starts)
        return steps * self.acting_seconds + learned * self.updates_per_step * self.update_seconds

    def precision(self) -> str:
        """Whether computing in bfloat16 pays, as a sentence; empty where a run has no choice."""
        if self.bfloat16 is None:
            return ""
        told = f"a matrix product in bfloat16 takes {self.bfloat16:.2g} times float32's time on this processor"
        if self.bfloat16 > _BFLOAT16_PAYS:
            return f"{told}: leave --bfloat16 out"
        return f"{told}: --bfloat16 shortens updates, of the larger presets most"

    def collection(self, environment_seconds: float, cores: int) -> str:
        """What pays for collecting: one environment, several serial ones, or some in processes, as a sentence.

        Args:
            environment_seconds: of one step of one environment, without the policy.
            cores: of this machine.
        """
        learning = self.updates_per_step * self.update_seconds
        busy = math.ceil(max(self.acting_seconds, environment_seconds) / learning)  # environments
        if busy <= 1:
            return "one environment is enough: a step's updates take longer than the step"
        told = f"{busy:,} environments side by side would keep the update busy"
        if environment_seconds <= _HANDOVER or cores == 1:
            reason = "this machine has one core" if cores == 1 else "a step is too short to be handed to a process"
            return f"{told}: --num-envs {min(busy, 16)}, one after another, as {reason}"
        return f"{told}: --num-envs {min(busy, cores)} --parallel processes, on the {cores} cores of this machine"


@dataclass(frozen=True)
class FamilyReport:
    """How one family takes to the environment.

    Attributes:
        parameters: by name, of each preset that can read it.
        unreadable: by name, why a preset cannot.
        capacity: rows that replay keeps by default.
        run_rows: rows that replay keeps in a run of the steps asked for.
        found: what a run finds out of the environment itself, each part as half a sentence.
        options: of `worldloom train`, beyond those given, that the environment needs.
        measured: the preset tried, the smallest that reads the environment.
        trial: None if no preset reads the environment or the trial failed.
        obstacle: why it cannot be trained; None if it can.
    """

    name: str
    parameters: Mapping[str, int]
    unreadable: Mapping[str, str]
    capacity: int
    run_rows: int
    found: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    measured: str | None = None
    trial: Trial | None = None
    obstacle: str | None = None


@dataclass(frozen=True)
class Play:
    """Steps of random actions: lengths of the episodes that ended, how many of those in a terminal state, and pace."""

    steps: int
    lengths: tuple[int, ...]
    terminations: int
    seconds: float

    @property
    def rate(self) -> float:
        """Agent steps a second in one environment."""
        return self.steps / self.seconds


@dataclass(frozen=True)
class EnvironmentReport:
    """What `check_environment` found.

    Attributes:
        arguments: of `worldloom train`, that say which environment this is.
        action_repeat: simulator steps of an agent step.
        steps: agent steps that times are projected for.
        longest_episode: in agent steps; None if the environment could not be made.
        play: None if random actions could not be played.
        refusal: why no family can be trained; None if that is up to the families.
    """

    name: str
    arguments: tuple[str, ...]
    action_repeat: int
    steps: int
    observations: tuple[Leaf, ...] = ()
    actions: tuple[Leaf, ...] = ()
    longest_episode: int | None = None
    play: Play | None = None
    problems: tuple[Problem, ...] = ()
    families: tuple[FamilyReport, ...] = ()
    refusal: str | None = None

    @property
    def trainable(self) -> bool:
        """Whether at least one family can be trained."""
        return any(family.obstacle is None for family in self.families)

    def text(self) -> str:
        """The report for a person, at most 100 columns wide, with the next command to run at its end."""
        return _text(self)


# ------------------------------------------------------------------ text


def _text(report: EnvironmentReport) -> str:
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        able = [family.name for family in report.families if family.obstacle is None]
        verdict = f"can be trained with {' and '.join(able)}" if able else "cannot be trained with any family yet"
        console.print(Text(f"{report.name} {verdict}."))
        for title, rows in _sections(report):
            if not rows:
                continue
            console.print(Text(f"\n{title}"))
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for name, text in rows:
                table.add_row(Text(f"  {name}"), Text(text))
            console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, "", *_next(report)])


def _sections(report: EnvironmentReport) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    yield "Observations", [(leaf.key, f"{leaf.given} → {leaf.seen}") for leaf in report.observations]
    yield "Actions", [(leaf.key, f"{leaf.given} → {leaf.seen}") for leaf in report.actions]
    yield "Episodes and pace", list(_played(report))
    yield (
        "Worth a look",
        [row for problem in report.problems for row in (("found", problem.what), ("remedy", problem.remedy))],
    )
    for family in report.families:
        verdict = "can be trained" if family.obstacle is None else "cannot be trained"
        yield f"{family.name} {verdict}", list(_family_rows(report, family))
    if report.refusal is not None:
        yield "No family can be trained", [("reason", report.refusal)]


def _played(report: EnvironmentReport) -> Iterator[tuple[str, str]]:
    if report.longest_episode is not None:
        held = f", each {report.action_repeat} simulator steps" if report.action_repeat > 1 else ""
        yield "limit", f"an episode has at most {report.longest_episode:,} agent steps{held}"
    play = report.play
    if play is None:
        return
    if play.lengths:
        short, long = min(play.lengths), max(play.lengths)
        steps = f"{short:,}" if short == long else f"{short:,} to {long:,}"
        yield (
            "random play",
            f"{len(play.lengths)} episodes of random actions, {steps} agent steps each: {play.terminations} ended in a "
            f"terminal state, {len(play.lengths) - play.terminations} were cut",
        )
    else:
        yield "random play", f"no episode ended within {play.steps:,} agent steps of random actions"
    yield (
        "pace",
        f"{play.rate:,.0f} agent steps a second with random actions in one environment: "
        f"{_duration(report.steps / play.rate)} for {report.steps:,} without a model",
    )


def _family_rows(report: EnvironmentReport, family: FamilyReport) -> Iterator[tuple[str, str]]:
    if family.parameters:
        sizes = ", ".join(f"{preset} {_count(number)}" for preset, number in family.parameters.items())
        yield "parameters", sizes
    reasons: dict[str, list[str]] = {}
    for preset, reason in family.unreadable.items():
        reasons.setdefault(reason, []).append(preset)
    for reason, presets in reasons.items():
        yield "cannot read", f"presets {', '.join(presets)}: {reason}"
    if family.obstacle is not None and family.parameters:
        yield "reason", family.obstacle
    if family.found:
        yield "found out", f"{'; '.join(family.found)}"
    trial = family.trial
    if trial is None:
        return
    yield (
        "replay",
        f"{_bytes(trial.row_bytes)} a row, all told: {_bytes(trial.row_bytes * family.run_rows)} for the "
        f"{family.run_rows:,} rows of this run, {_bytes(trial.row_bytes * family.capacity)} for the default capacity "
        f"of {family.capacity:,} rows",
    )
    yield (
        "time",
        f"about {_duration(trial.training_seconds(report.steps))} for {report.steps:,} agent steps, evaluations left "
        f"out: {1000 * trial.acting_seconds:.1f} ms a step to act and "
        f"{1000 * trial.updates_per_step * trial.update_seconds:.0f} ms to learn, measured on this processor with the "
        f"preset {family.measured}",
    )
    if report.play is not None:
        environment = 1 / report.play.rate
        yield (
            "collecting",
            f"{1000 * environment:.1f} ms to step the environment: "
            f"{trial.collection(environment, os.cpu_count() or 1)}",
        )
    if told := trial.precision():
        yield "precision", told
    if trial.learning_starts >= report.steps:
        yield "learning", f"starts after {trial.learning_starts:,} agent steps: raise --steps above that"


def _next(report: EnvironmentReport) -> list[str]:
    commands = [
        shlex.join(["worldloom", "train", family.name, *report.arguments, *family.options])
        for family in report.families
        if family.obstacle is None
    ]
    if commands:
        return ["Next:", *(f"  {command}" for command in commands)]
    again = shlex.join(["worldloom", "check", report.name, *report.arguments[2:]])
    return ["Next: mend what is named above, then check again:", f"  {again}"]


def _count(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.0f}k"


def _bytes(number: float) -> str:
    power = min(4, int(math.log(number, 1000)))
    size = f"{number / 1000**power:.1f}".removesuffix(".0")
    return f"{size} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
