"""The replay of one of our own runs: what its newest checkpoint holds of it, mapped; of all processes that learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Composite

from worldloom_rl.config import Json
from worldloom_rl.data.episodes import TASK
from worldloom_rl.data.json_file import read_json
from worldloom_rl.data.saved_rows import map_rows
from worldloom_rl.data.stored_episodes import Part, StoredEpisodes
from worldloom_rl.keys import IS_INIT, REWARD, STREAM, TERMINATED, TRUNCATED, as_tuple, previous_action_keys
from worldloom_rl.specs.observations import leaves_of
from worldloom_rl.specs.saved import spec_from_json
from worldloom_rl.tasks import named_tasks

_CONFIG, _CHECKPOINTS, _REPLAY, _MODEL = "config.json", "checkpoints", "replay", "model"

Leaves = Mapping[tuple[str, ...], Tensor]


def is_run(path: Path) -> bool:
    """Whether a path is the directory of a run."""
    return (path / _CONFIG).is_file() and (path / _CHECKPOINTS).is_dir()


def open_run(path: Path) -> StoredEpisodes:
    """The episodes of a run's replay, stream by stream; those that were going on end where the replay ends.

    An episode whose beginning was recycled begins with the first row that is left. The task is the run's environment,
    or its environments where it has several.

    Raises FileNotFoundError if the run keeps no replay; ValueError, naming the file, for what is damaged.
    """
    checkpoint = _newest_with_replay(path)
    replays = [map_rows(folder) for folder in (checkpoint / _REPLAY, *sorted(checkpoint.glob(f"rank*/{_REPLAY}")))]
    files = [file for replay in replays for file in replay]
    if not files:
        raise ValueError(f"{checkpoint / _REPLAY} holds no rows.")
    observation_spec, action_spec = _specs(checkpoint / _MODEL / _CONFIG, files[0][1])
    kept = _kept_keys(observation_spec, action_spec)
    _check_actions(path, action_spec, files[0][1])
    for file, leaves in files:
        _check_rows(file, {key: as_tuple(key) for key in kept}, observation_spec, leaves)
    order, starts, lengths = _episodes([[leaves for _, leaves in replay] for replay in replays])
    config = _read_json(path / _CONFIG).get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{path / _CONFIG} has no configuration of a run.")
    several = (TASK,) in files[0][1]
    tasks = torch.cat([leaves[TASK,].reshape(-1) for _, leaves in files])[order][starts].long() if several else None
    environment = config.get("env")
    one = (str(environment),) if environment else ()
    return StoredEpisodes(
        str(path),
        [Part(str(file), {key: leaves[as_tuple(key)] for key in kept}, file) for file, leaves in files],
        starts=starts,
        lengths=lengths,
        observation_spec=observation_spec,
        action_spec=action_spec,
        tasks=tasks,
        names=named_tasks(config["tasks"]) if several and config.get("tasks") else one,
        order=order,
    )


def _newest_with_replay(path: Path) -> Path:
    found = [folder for folder in sorted((path / _CHECKPOINTS).glob("step_*")) if (folder / _REPLAY).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"{path} holds no checkpoint with a replay: the run was stopped before its first one, or learned from "
            "recorded data; name that data instead."
        )
    return found[-1]


def _specs(file: Path, leaves: Leaves) -> tuple[Composite, Composite]:
    """Specs of what the rows hold, from the model that learned from them."""
    config = _read_json(file)
    try:
        observation_spec, action_spec = (spec_from_json(config[name]) for name in ("observation_spec", "action_spec"))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file} describes no model: {error}") from error
    observed = {key: leaf for key, leaf in leaves_of(observation_spec).items() if as_tuple(key) in leaves}
    observed.pop(TASK, None)
    if not observed:
        raise ValueError(f"The replay beside {file} holds none of the model's observations {list(observation_spec)}.")
    return Composite(observed), action_spec


def _kept_keys(observation_spec: Composite, action_spec: Composite) -> list[str | tuple[str, ...]]:
    stored = previous_action_keys(tuple(leaves_of(action_spec)))
    return [*leaves_of(observation_spec), *stored, REWARD, TERMINATED, TRUNCATED]


def _check_actions(path: Path, action_spec: Composite, leaves: Leaves) -> None:
    keys = tuple(leaves_of(action_spec))
    for key, stored in zip(keys, previous_action_keys(keys), strict=True):
        found = leaves[as_tuple(stored)].shape[1:]
        if found != action_spec[key].shape:
            raise ValueError(
                f"{path}: its model takes {key!r} as {list(action_spec[key].shape)}, its replay holds {list(found)}: a "
                "run that gives actions in blocks cannot be learned from."
            )


def _check_rows(file: Path, kept: Mapping[NestedKey, tuple[str, ...]], observed: Composite, leaves: Leaves) -> None:
    """Raise ValueError for rows without what is kept of them, or with observations that are not the model's."""
    missing = [key for key in (*kept.values(), as_tuple(IS_INIT), as_tuple(STREAM)) if key not in leaves]
    if missing:
        raise ValueError(f"{file} holds no {missing[0]}, only {sorted(leaves)}.")
    for key, leaf in leaves_of(observed).items():
        found = leaves[as_tuple(key)]
        if (found.shape[1:], found.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(
                f"{file} holds {key!r} as {list(found.shape[1:])} {found.dtype}, but the model beside it observes "
                f"{list(leaf.shape)} {leaf.dtype}: take both of one save."
            )


def _episodes(replays: Sequence[Sequence[Leaves]]) -> tuple[Tensor, Tensor, Tensor]:
    """Order of the rows [N], and first place in it and rows [E] of each episode that has a transition.

    Args:
        replays: the files of each process' rows, whose streams are numbered from 0 in each.
    """
    streams, before = [], 0
    for files in replays:
        streams += [leaves[as_tuple(STREAM)].reshape(-1).long() + before for leaves in files]
        before = max(int(stream.max()) for stream in streams) + 1 if streams else 0
    stream = torch.cat(streams)
    order = stream.argsort(stable=True)
    begins = torch.cat([leaves[as_tuple(IS_INIT)].reshape(-1) for files in replays for leaves in files])[order]
    begins[0] = True
    begins[1:] |= stream[order][1:] != stream[order][:-1]
    starts = begins.nonzero().squeeze(-1)
    lengths = torch.cat([starts[1:], torch.tensor([len(order)])]) - starts
    return order, starts[lengths > 1], lengths[lengths > 1]


def _read_json(file: Path) -> dict[str, Json]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}.")
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it is no JSON object.")
    return content
