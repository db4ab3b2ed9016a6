"""Replay: one ring of linked rows in a TorchRL buffer, sampled as windows [B, L], saved by appending."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import ConditionalUpdateResult, LazyMemmapStorage, LazyTensorStorage, ReplayBuffer

from worldloom_rl.data.arrivals import Arrived
from worldloom_rl.data.codec import Codec, decoded, encoded
from worldloom_rl.data.journal import Journal, Manifest
from worldloom_rl.data.laws import MakeLaw, find_law
from worldloom_rl.data.ring import LinkedRingWriter
from worldloom_rl.data.saved_rows import SavedRows, leaf_name
from worldloom_rl.data.window_sampler import WindowSampler
from worldloom_rl.keys import GENERATION, INDEX, STREAM, TRUNCATED, as_tuple

_FORMAT = 2


class Replay(ReplayBuffer):  # type: ignore[misc]  # torchrl is untyped
    """Windows [B, L] of rows that follow each other in a stream: the rows' keys, and their handles under "replay".

    Rows of all streams share one first-in-first-out ring; contributions may be ragged. A sample costs the same whatever
    the capacity, and draws from `generator` only.

    Args:
        capacity: rows kept.
        window: L, rows of a sample.
        batch_size: B, windows of a sample.
        by: the law by which windows are drawn, or its name: "episode", "online", "window", "within"; see `data.laws`.
        memmap_dir: keep the rows in memory-mapped files there (scratch: `save` makes checkpoints), else in memory.
        frame_stack: {key: k} samples [B, L, k·C, height, width] of stored [C, height, width] frames: this one after the
            k-1 before it in the same episode, the episode's first one repeated, as TorchRL's CatFrames does. A window
            whose earlier frames were recycled is not drawn.
        generator: of all draws; torch's own by default.
        device: where rows in memory are kept; samples come out there.
        codec: entries that are kept in fewer bytes, by key; samples have their values.

    Example:
        >>> from torchrl.envs import GymEnv, InitTracker, TransformedEnv
        >>> from worldloom_rl.data import Arrivals, Replay
        >>> env = TransformedEnv(GymEnv("CartPole-v1"), InitTracker())
        >>> arrivals = Arrivals(["observation"])
        >>> replay = Replay(capacity=1000, window=4, batch_size=2, by="window")
        >>> slots = replay.extend(arrivals(env.rollout(20, break_when_any_done=False)))
        >>> replay.sample()["observation"].shape
        torch.Size([2, 4, 4])
    """

    def __init__(
        self,
        *,
        capacity: int,
        window: int,
        batch_size: int,
        by: str | MakeLaw = "episode",
        memmap_dir: str | os.PathLike[str] | None = None,
        frame_stack: Mapping[NestedKey, int] | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        codec: Codec | None = None,
    ) -> None:
        law = find_law(by)
        if not 1 <= window <= capacity:
            raise ValueError(f"a window of {window} rows does not fit a capacity of {capacity} rows.")
        self._frame_stack = {as_tuple(key): number for key, number in (frame_stack or {}).items()}
        if any(number < 1 for number in self._frame_stack.values()):
            raise ValueError(f"frame_stack={frame_stack}: stack at least one frame.")
        self._ring = LinkedRingWriter(capacity, window, max(self._frame_stack.values(), default=1) - 1, law)
        super().__init__(
            storage=LazyTensorStorage(capacity, device=device)
            if memmap_dir is None
            else LazyMemmapStorage(capacity, scratch_dir=os.fspath(memmap_dir)),
            sampler=WindowSampler(self._ring),
            writer=self._ring,
            batch_size=batch_size,
            generator=generator,
        )
        self._warned_batch_size_conflict = True  # who passes a batch size to sample means it
        self._leaves: dict[tuple[str, ...], Tensor] = {}  # the storage's, [capacity, ...]
        self._saved = SavedRows(self._ring)
        self._codec = codec or {}

    @property
    def capacity(self) -> int:
        """Most rows kept."""
        return self._ring.capacity

    @property
    def window(self) -> int:
        """L, rows of a sampled window."""
        return self._ring.window

    @property
    def episodes(self) -> int:
        """Complete episodes of which at least the last row is there."""
        return self._ring.episodes

    @property
    def bytes_per_row(self) -> float:
        """Bytes that one row of capacity takes: its leaves, and the links and tables beside them."""
        ring, leaves = self._ring, self._leaves.values()
        beside = ring.nbytes + self._saved.nbytes
        index = 8  # the slot, which the ring keeps as a leaf
        return float(beside + sum(leaf.nbytes for leaf in leaves)) / ring.capacity + index

    def extend(self, data: Arrived | TensorDictBase, *, update_priority: bool | None = None) -> Tensor:
        """Writes rows [N]; returns their slots [N].

        Args:
            data: what `Arrivals` returns, or rows with `keys.STREAM`, "is_init", "terminated" and "truncated", in
                order within a stream. An init row after a row that ended nothing (the collector was reset) marks that
                one truncated.
        """
        arrived = data if isinstance(data, Arrived) else Arrived(data)
        if arrived.late is not None:
            self._write_late(arrived.late)
        rows, device = arrived.rows.copy(), self._storage.device  # the ring writes their slots into them
        leaves = _leaves(rows)
        self._check_rows(leaves)
        if any(leaf.device != device for leaf in leaves.values()):
            rows = rows.to(device)
        index: Tensor = super().extend(encoded(rows, self._codec), update_priority=update_priority).cpu()
        self._leaves = self._leaves or _leaves(self._storage._storage)
        self._saved.note_written(index)
        cuts, self._ring.cuts = torch.tensor(self._ring.cuts, dtype=torch.int64), []
        if len(cuts):
            patch = {TRUNCATED: torch.ones_like(self._leaves[as_tuple(TRUNCATED)][: len(cuts)])}
            self.update_if_present(index=cuts, generation=self._ring.generations_of(cuts), patch=patch)
        return index

    def sample(self, batch_size: int | None = None, return_info: bool = False) -> Any:
        """Windows [B, L]: the rows' keys, and their handles `keys.INDEX` and `keys.GENERATION` (see `write_back`).

        Raises:
            RuntimeError: no window can be drawn yet.
        """
        return super().sample(batch_size, return_info)

    def entries(self, *keys: NestedKey) -> TensorDict:
        """[N] these entries of all rows that are there, the oldest first, as copies."""
        slots = torch.arange(self._ring.oldest, self._ring.serial) % self._ring.capacity
        entries = TensorDict({}, batch_size=slots.shape)
        for key in keys:
            leaf = self._leaves[as_tuple(key)]
            entries[key] = leaf.index_select(0, slots.to(leaf.device))
        decoded(entries, self._codec)
        return entries

    def write_back(self, rows: TensorDictBase) -> int:
        """Replaces entries of sampled rows; the number of rows replaced.

        Args:
            rows: [*any] the handles and the entries to replace, for example `posterior.select("replay", "latent")`.
                Rows recycled since are skipped; of several values for one row the last wins.
        """
        index = rows[INDEX].reshape(-1)
        patch = rows.exclude(INDEX, GENERATION).reshape(-1).detach()
        slots, group = index.unique(return_inverse=True)
        order = torch.arange(len(index), device=index.device)
        last = torch.zeros_like(slots).scatter_reduce_(0, group, order, "amax")
        result = self.update_if_present(
            index=slots.cpu(),
            generation=rows[GENERATION].reshape(-1)[last].cpu(),
            patch={key: self._cast(key, value.index_select(0, last)) for key, value in patch.items(True, True)},
        )
        return int(result.updated_count)

    def update_if_present(
        self,
        *,
        index: Tensor,
        generation: Tensor,
        patch: Mapping[NestedKey, Tensor] | TensorDictBase,
        **version: NestedKey | int | Tensor | None,
    ) -> ConditionalUpdateResult:
        """TorchRL's conditional update of rows [N], noted for the next checkpoint."""
        result: ConditionalUpdateResult = super().update_if_present(
            index=index, generation=generation, patch=patch, **version
        )
        keys = patch.keys(True, True) if isinstance(patch, TensorDictBase) else patch.keys()
        self._saved.note_patched(index[result.updated].cpu(), keys)
        return result

    def dumps(self, path: str | os.PathLike[str]) -> None:
        """Saves in a directory (also called `save`): new files hold what was written or patched since the last time.

        In another directory than the last time, its files are taken over by hard links; a directory that was renamed
        since is told by `moved`. The manifest is renamed into place last, so a save that is cut off leaves the
        previous one. Files whose rows are all recycled, or patched again since, are removed after it.
        """
        self._saved.save(Journal(path), self._leaves, self._settings(), self.bytes_per_row)

    def moved(self, directory: str | os.PathLike[str]) -> None:
        """Tells that the directory of the last `save` has this name now, so that the next one can build on it."""
        self._saved.directory = Path(directory).absolute()

    def loads(self, path: str | os.PathLike[str]) -> None:
        """Restores what `save` wrote (also called `load`) into a replay of the same settings; its own rows are dropped.

        Ring, links, generations and the order of draws are as they were: with the same generator state `sample` gives
        the same batches, and streams go on. Another capacity is taken as long as no row has been recycled, and the
        rows fit: all is then as if they had been written into it.

        Raises:
            FileNotFoundError: there is no manifest, or a file it lists is missing.
            ValueError: a file is damaged, or the settings differ. After a damaged file the replay is empty.
        """
        journal, ring = Journal(path), self._ring
        state = journal.manifest()
        self._check_settings(state, journal)
        try:
            self.empty()
            ring.resume(state["oldest"])
            for rows in self._saved.rows(journal, state):
                self.extend(rows)
            for slots, patch in self._saved.patches(journal, state):
                self.update_if_present(index=slots, generation=ring.generations_of(slots), patch=patch)
            ring.law.restore(journal.read(state["files"]["order"][0]))
        except BaseException:
            self.empty()
            raise
        self._saved.restored(journal, state)

    def state_dict(self) -> NoReturn:
        raise NotImplementedError(
            "replay is saved by appending to a directory: use save(directory) and load(directory)."
        )

    def load_state_dict(self, state_dict: dict[str, object]) -> NoReturn:
        raise NotImplementedError(
            "replay is saved by appending to a directory: use save(directory) and load(directory)."
        )

    def empty(self, empty_write_count: bool = True) -> None:
        """Drops all rows; handles of sampled ones go stale."""
        super().empty(empty_write_count)
        self._saved.directory = None

    # ------------------------------------------------------------------------------------------------ sampling

    def _sample(self, batch_size: int) -> tuple[TensorDictBase, dict[NestedKey, Tensor]]:
        with self._replay_lock, self._write_lock:
            index, info = self._sampler.sample(self._storage, batch_size)
            data = self._gather(index)
        handles = {key: data[key] for key in (INDEX, GENERATION)}  # a transform may drop them
        decoded(data, self._codec)
        if self._transform is not None and len(self._transform):
            data = self._transform(data)
        # "index" is where ReplayBuffer.sample of the next TorchRL counts what was drawn.
        return data, {**info, **handles, "index": index}

    def _gather(self, index: Tensor) -> TensorDict:
        """Rows at slots [B, L] and their handles, by index_select: for images indexing takes ten times as long."""
        rows = index.reshape(-1).to(self._storage.device)
        entries = {as_tuple(INDEX): index, as_tuple(GENERATION): self._ring.live_generations(index)}
        for key, leaf in self._leaves.items():
            if key == STREAM:
                continue
            slots, feature = rows, tuple(leaf.shape[1:])
            if (number := self._frame_stack.get(key, 1)) > 1:
                slots = self._ring.stack_back(index, number).reshape(-1).to(leaf.device)
                feature = (number * feature[0], *feature[1:])
            entries[key] = leaf.index_select(0, slots).view(*index.shape, *feature)
        return TensorDict(entries, batch_size=index.shape, device=self._storage.device)

    # ------------------------------------------------------------------------------------------------ writing

    def _check_rows(self, given: Mapping[tuple[str, ...], Tensor]) -> None:
        if self._leaves and given.keys() != self._leaves.keys():
            missing, extra = self._leaves.keys() - given.keys(), given.keys() - self._leaves.keys()
            raise KeyError(
                f"these rows lack {sorted(missing)} and add {sorted(extra)} against those already in replay."
            )
        for key, number in self._frame_stack.items():
            if key not in given or given[key].ndim != 4:
                shapes = {name: tuple(leaf.shape[1:]) for name, leaf in given.items()}
                raise ValueError(
                    f"frame_stack={{{key}: {number}}} needs [C, height, width] frames there; given {shapes}."
                )

    def _write_late(self, late: TensorDict) -> None:
        last = [self._ring.last_row(stream) for stream in late[STREAM].tolist()]
        kept = [place for place, row in enumerate(last) if row is not None]
        if kept:
            index = torch.tensor([row % self._ring.capacity for row in last if row is not None])
            patch = {key: self._cast(key, value[kept]) for key, value in late.exclude(STREAM).items(True, True)}
            self.update_if_present(index=index, generation=self._ring.generations_of(index), patch=patch)

    def _cast(self, key: NestedKey, value: Tensor) -> Tensor:
        leaf = self._leaves.get(as_tuple(key))
        if leaf is None:
            raise KeyError(f"the rows in replay have no {key!r} to replace; they have {sorted(self._leaves)}.")
        return (self._codec[as_tuple(key)].encode(value) if as_tuple(key) in self._codec else value).to(leaf)

    def _settings(self) -> Manifest:
        stack = {leaf_name(key): number for key, number in sorted(self._frame_stack.items())}
        ring = {"capacity": self._ring.capacity, "window": self._ring.window}
        codec = {
            leaf_name(key): str(each) for key, each in sorted(self._codec.items())
        } or None  # as where none is told
        return {"format_version": _FORMAT, "by": self._ring.law.name, "frame_stack": stack, "codec": codec, **ring}

    def _check_settings(self, state: Manifest, journal: Journal) -> None:
        recycled = state["oldest"] > 0 or state["serial"] > self.capacity
        for name, expected in self._settings().items():
            if state.get(name) != expected and (name != "capacity" or recycled):
                raise ValueError(
                    f"{journal.directory} was saved with {name}={state.get(name)!r}, this replay has {expected!r}: "
                    "build it with the settings it was saved with."
                )


def _leaves(rows: TensorDictBase) -> dict[tuple[str, ...], Tensor]:
    """Leaves by key, without the slots; memory-mapped ones as plain tensors on the same memory."""
    leaves = {as_tuple(key): leaf for key, leaf in rows.items(True, True) if key != INDEX}
    return {key: leaf.as_subclass(Tensor) for key, leaf in leaves.items()}
