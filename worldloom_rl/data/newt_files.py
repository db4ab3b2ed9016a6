"""The demonstrations of newt, TD-MPC2's successor: one file a task, mapped."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.data.saved_tensor_dict import Leaf, read_tensor_dict
from worldloom_rl.data.stored_episodes import Part, StoredEpisodes
from worldloom_rl.data.tdmpc2_chunks import OBSERVATION, ROW_KEYS
from worldloom_rl.keys import ACTION

_REAL = (torch.float32,)
_LEAVES = {
    "obs": Leaf(_REAL, 1),
    "action": Leaf(_REAL, 1),
    "reward": Leaf(_REAL),
    "terminated": Leaf((torch.bool, torch.float32), optional=True),
    "episode": Leaf((torch.int64,)),
    "value": Leaf(_REAL, optional=True),
    "feat": Leaf((torch.float32, torch.float16), 1, optional=True),
    "task": Leaf((torch.int32, torch.int64), optional=True),
}


def open_newt(path: Path) -> list[StoredEpisodes]:
    """The episodes of each file TASK.pt of a directory, or of one file; the task has the file's name.

    A file is a TensorDict [rows], saved by torch.save, with "obs", "action", "reward", "terminated" as in
    `open_chunks`, and "episode", the same number in all rows of an episode, which stand together.

    Raises FileNotFoundError; ValueError naming the file and what is wrong in it.
    """
    files = sorted(path.glob("*.pt")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{path} holds no files TASK.pt of newt's demonstrations.")
    return [_open_file(file) for file in files]


def _open_file(file: Path) -> StoredEpisodes:
    tensors = read_tensor_dict(file, _LEAVES, dimensions=1)
    starts, lengths = _episodes(file, tensors["episode"])
    part = Part(str(file), {ROW_KEYS[name]: leaf for name, leaf in tensors.items() if name in ROW_KEYS}, file)
    width = tensors["action"].shape[1]
    return StoredEpisodes(
        f"newt:{file}",
        [part],
        starts=starts,
        lengths=lengths,
        names=(file.stem,),
        observation_spec=Composite({OBSERVATION: Unbounded((tensors["obs"].shape[1],))}),
        unit_actions=True,
        action_spec=Composite({ACTION: Bounded(-1.0, 1.0, shape=(width,), dtype=torch.float32)}),
    )


def _episodes(file: Path, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """First row and rows [E] of every run of one number."""
    names, lengths = torch.unique_consecutive(numbers, return_counts=True)
    twice = names.sort().values
    again = (twice[1:] == twice[:-1]).nonzero()
    if len(again):
        raise ValueError(f"{file}: the rows of episode {int(twice[again[0]])} do not stand together.")
    return lengths.cumsum(0) - lengths, lengths
