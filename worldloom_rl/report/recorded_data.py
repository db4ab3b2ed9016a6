"""What recorded data is to an agent of one or several tasks, told before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from worldloom_rl.data import Episodes
from worldloom_rl.keys import REWARD
from worldloom_rl.tasks import TaskSet
from worldloom_rl.training.recorded_windows import RecordedWindows

_SUMMED = 200  # most episodes of a task whose returns are summed


class RecordedTask(NamedTuple):
    """One task of a run, and what is recorded of it.

    Attributes:
        observes: its own numbers and those that the agent sees; acts: likewise.
        longest: agent steps of an episode of its environment.
        rows: fewest and most of an episode.
        returns: of `summed` episodes, spread over all: least, mean and most.
        played: whether it has an environment.
    """

    name: str
    observes: tuple[int, int]
    acts: tuple[int, int]
    longest: int
    discount: float
    episodes: int
    rows: tuple[int, int]
    returns: tuple[float, float, float]
    summed: int
    played: bool


class RecordedData(NamedTuple):
    """See `describe_recorded`."""

    source: str
    tasks: tuple[RecordedTask, ...]
    episodes: int
    rows: int
    gigabytes: float
    window: int  # rows that are drawn together

    def text(self) -> str:
        """For a terminal: a table by task, and the whole."""
        head = ("task", "observes", "acts", "steps", "γ", "episodes", "rows of one", "return (least, mean, most)", "")
        lines = [head, *map(_cells, self.tasks)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        table = "\n".join(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        most = max(task.summed for task in self.tasks)
        summed = f" Returns are those of at most {most} episodes of a task." if most == _SUMMED else ""
        drawn = f"{self.gigabytes:.3g} GB, drawn in windows of {self.window} rows.{summed}"
        return f"{self.source}\n{table}\n{drawn}"


def describe_recorded(
    recorded: RecordedWindows, tasks: TaskSet, discounts: Sequence[float], without: Sequence[str] = ()
) -> RecordedData:
    """Widths, padding, lengths, discounts, episodes and returns by task, and gigabytes.

    Args:
        recorded: as a run would draw from them.
        tasks: that it learns, in the order of the episodes' numbers.
        discounts: of each task.
        without: names of the tasks that have no environment.
    """
    episodes = recorded.episodes
    widest = tasks.observation_width, tasks.action_width
    told = []
    for number, name in enumerate(tasks.names):
        chosen = (episodes.tasks == number).nonzero().squeeze(-1)
        lengths = episodes.lengths[chosen]
        some = torch.linspace(0, len(chosen) - 1, min(len(chosen), _SUMMED), dtype=torch.float64).long()
        returns = [episode_return(episodes, episode) for episode in chosen[some].tolist()]
        told.append(
            RecordedTask(
                name=name,
                observes=(tasks.observation_widths[number], widest[0]),
                acts=(tasks.action_widths[number], widest[1]),
                longest=tasks.episode_lengths[number],
                discount=discounts[number],
                episodes=len(chosen),
                rows=(int(lengths.min()), int(lengths.max())),
                returns=(min(returns), sum(returns) / len(returns), max(returns)),
                summed=len(returns),
                played=name not in without,
            )
        )
    return RecordedData(
        source=str(recorded),
        tasks=tuple(told),
        episodes=len(episodes.lengths),
        rows=recorded.rows,
        gigabytes=recorded.bytes / 1e9,
        window=recorded.windows.window,
    )


def episode_return(episodes: Episodes, episode: int) -> float:
    """The sum of a recorded episode's rewards."""
    end, length = int(episodes.ends[episode]), int(episodes.lengths[episode])
    return float(episodes.rows(torch.arange(end - length, end))[REWARD].double().sum())


def _cells(task: RecordedTask) -> tuple[str, ...]:
    return (
        task.name,
        _padded(task.observes),
        _padded(task.acts),
        str(task.longest),
        f"{task.discount:.4g}",
        str(task.episodes),
        str(task.rows[0]) if task.rows[0] == task.rows[1] else f"{task.rows[0]} to {task.rows[1]}",
        ", ".join(f"{value:.1f}" for value in task.returns),
        "" if task.played else "not evaluated: no such environment",
    )


def _padded(widths: tuple[int, int]) -> str:
    own, seen = widths
    return str(own) if own == seen else f"{own} + {seen - own} zeros"
