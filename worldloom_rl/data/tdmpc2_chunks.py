"""The files of TD-MPC2's released data sets (mt30, mt80) and of its replay buffers, mapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.data.json_file import read_json
from worldloom_rl.data.mapped_memory import MappedMemory
from worldloom_rl.data.saved_tensor_dict import Leaf, read_tensor_dict
from worldloom_rl.data.stored_episodes import Part, StoredEpisodes
from worldloom_rl.keys import ACTION, PREVIOUS_ACTION, REWARD, TERMINATED

OBSERVATION = "observation"
TASKS_FILE = "tasks.json"

_REAL = (torch.float32,)
_LEAVES = {
    "obs": Leaf(_REAL, 1),
    "action": Leaf(_REAL, 1),
    "reward": Leaf(_REAL),
    "task": Leaf((torch.int32, torch.int64), optional=True),
    "terminated": Leaf((torch.float32, torch.bool), optional=True),
    "episode": Leaf((torch.int64,), optional=True),
}
ROW_KEYS = {"obs": OBSERVATION, "action": PREVIOUS_ACTION, "reward": REWARD, "terminated": TERMINATED}  # of rows
_PIECE = 10_000  # episodes whose tasks are read together


def open_chunks(directory: Path, tasks: Sequence[str] | None = None) -> StoredEpisodes:
    """The episodes of all *.pt files of a directory, ordered by their names as text, as the official loader does.

    A file is a TensorDict [episodes, rows], saved by torch.save, with

        obs [O], action [A], reward  float32: action and reward led to the row's observation, those of row 0 are unused
        task        int32 (or int64), the same in all rows of an episode; without it all are of one task
        terminated  float32 or bool, optional

    Args:
        tasks: names of the tasks that the files number, unless a file tasks.json beside them lists these.
    Raises FileNotFoundError; ValueError naming the file and what is wrong in it.
    """
    files = sorted(directory.glob("*.pt")) if directory.is_dir() else [directory]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{directory} holds no files *.pt of TD-MPC2's data (chunk_0.pt, …).")
    parts, lengths, numbers = [], [], []
    for file in files:
        tensors = read_tensor_dict(file, _LEAVES, dimensions=2)
        episodes, rows = tensors["reward"].shape
        leaves = {ROW_KEYS[name]: leaf.flatten(0, 1) for name, leaf in tensors.items() if name in ROW_KEYS}
        parts.append(Part(str(file), leaves, file))
        _check_widths(parts[0], parts[-1])
        lengths.append(torch.full((episodes,), rows))
        numbers.append(_tasks(file, tensors.get("task"), episodes))
    all_lengths, all_numbers = torch.cat(lengths), torch.cat(numbers)
    names = _names(directory, int(all_numbers.max()) + 1, tasks)
    widths = {key: leaf.shape[1] for key, leaf in parts[0].leaves.items() if leaf.ndim > 1}
    return StoredEpisodes(
        f"tdmpc2:{directory}",
        parts,
        starts=all_lengths.cumsum(0) - all_lengths,
        lengths=all_lengths,
        tasks=all_numbers,
        names=names,
        observation_spec=Composite({OBSERVATION: Unbounded((widths[OBSERVATION],))}),
        unit_actions=True,
        action_spec=Composite({ACTION: Bounded(-1.0, 1.0, shape=(widths[PREVIOUS_ACTION],), dtype=torch.float32)}),
    )


def _check_widths(first: Part, part: Part) -> None:
    shapes, others = ({key: leaf.shape[1:] for key, leaf in each.leaves.items()} for each in (first, part))
    if shapes != others:
        raise ValueError(f"{part.name} has rows of {_told(others)}, but {first.name} of {_told(shapes)}.")


def _told(shapes: dict[object, torch.Size]) -> str:
    return ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())


def _tasks(file: Path, leaf: Tensor | None, episodes: int) -> Tensor:
    """[episodes] int64 the task of each, once all its rows are seen to have it."""
    if leaf is None:
        return torch.zeros(episodes, dtype=torch.int64)
    memory, found = MappedMemory([leaf]), []
    for first in range(0, episodes, _PIECE):
        piece = leaf[first : first + _PIECE]
        task = piece[:, 0].long()
        wrong = ((piece != piece[:, :1]).any(-1) | (task < 0)).nonzero()
        if len(wrong):
            number = first + int(wrong[0])
            raise ValueError(f"{file}, episode {number}: 'task' is negative, or differs between its rows.")
        found.append(task)
        memory.release()
    return torch.cat(found)


def _names(directory: Path, count: int, tasks: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the numbers below `count`."""
    file = (directory if directory.is_dir() else directory.parent) / TASKS_FILE
    if file.is_file():
        names = read_json(file)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{file} must be a list of names of tasks.")
    else:
        names = list(tasks or ())
    if count == 1 and not names:
        return ()
    if len(names) < count:
        listed = f"{file} lists {len(names)}" if file.is_file() else f"{len(names)} are given"
        raise ValueError(
            f"{directory} has episodes of task {count - 1}, so at least {count} tasks, but {listed}: name all of them "
            f"in the order of their numbers, by --tasks or as a list in {file.name} beside the files."
        )
    return tuple(names)
