"""The files of a replay: what is new since the last save is appended, what was there before is never rewritten."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from tensordict import NestedKey, TensorDict
from torch import Tensor

from worldloom_rl.data.journal import Entry, Journal, Manifest
from worldloom_rl.data.ring import LinkedRingWriter
from worldloom_rl.keys import STREAM, as_tuple

_SERIAL = "serial"  # in files, the rows' serials; a leaf's name there is the JSON of its key
_STREAM_OF_0_6 = ("stream",)  # the key of STREAM in files of version 0.6
_FILE_BYTES = 2**28  # about, of rows in one file


class SavedRows:
    """What the last save holds of a ring's rows, and what was written or patched since.

    Attributes:
        directory: of the last save; None if there is none to build on.
    """

    def __init__(self, ring: LinkedRingWriter) -> None:
        self._ring = ring
        self._changed = torch.zeros(ring.capacity, dtype=torch.bool)  # rows patched since the last save
        self._patched: set[tuple[str, ...]] = set()  # keys ever patched
        self._change_of = torch.full((ring.capacity,), -1)  # number of the change file that holds the row's last patch
        self._up_to = 0  # serial
        self._files: dict[str, list[Entry]] = {}
        self.directory: Path | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self._changed.nbytes + self._change_of.nbytes

    def note_written(self, slots: Tensor) -> None:
        """New rows stand in these slots."""
        self._change_of[slots] = -1

    def note_patched(self, slots: Tensor, keys: Iterable[NestedKey]) -> None:
        """These entries of the rows in these slots were replaced."""
        self._changed[slots] = True
        self._patched.update(as_tuple(key) for key in keys)

    def save(
        self,
        journal: Journal,
        leaves: Mapping[tuple[str, ...], Tensor],
        settings: Manifest,
        bytes_per_row: float,
    ) -> None:
        """Writes the rows and patches that the journal's directory lacks, and its manifest.

        Args:
            leaves: [capacity, …] by key.
            settings: what stands in the manifest beside the files.
        """
        ring = self._ring
        previous = self.directory if self.directory is not None and self.directory.is_dir() else None
        fresh = previous is None
        files: dict[str, list[Entry]] = {"rows": [], "changes": []} if fresh else self._files
        saved = ring.oldest if fresh else max(self._up_to, ring.oldest)
        step = max(1, int(_FILE_BYTES / bytes_per_row))
        rows = [entry for entry in files["rows"] if entry["stop"] > ring.oldest]
        for first in range(saved, ring.serial, step):
            stop = min(first + step, ring.serial)
            tensors = self._take(leaves, leaves, torch.arange(first, stop))
            rows.append(journal.write("rows", tensors, first=first, stop=stop))
        change_of = torch.full_like(self._change_of, -1) if fresh else self._change_of.clone()
        changed = torch.arange(ring.oldest, saved)
        changed = changed[self._changed[changed % ring.capacity]]
        changes = list(files["changes"])
        if len(changed):
            number = 1 + max((entry["number"] for entry in changes), default=0)
            change_of[changed % ring.capacity] = number
            changes.append(journal.write("changes", self._take(leaves, sorted(self._patched), changed), number=number))
        live = set(change_of[torch.arange(ring.oldest, ring.serial) % ring.capacity].tolist())
        changes = [entry for entry in changes if entry["number"] in live]
        if previous is not None:
            for entry in (*rows, *changes):
                journal.adopt(entry, previous)
        files = {"rows": rows, "changes": changes, "order": [journal.write("order", ring.law.state())]}
        patched = sorted(map(leaf_name, self._patched))
        state = {"serial": ring.serial, "oldest": ring.oldest, "patched": patched, "files": files}
        journal.commit({**settings, **state})
        self._change_of = change_of
        self._note_saved(journal, files)

    def rows(self, journal: Journal, state: Manifest) -> Iterator[TensorDict]:
        """[N] the live rows of a manifest, file by file, in the order in which they were written."""
        for entry in state["files"]["rows"]:
            yield _rows(journal.read(entry))[max(0, state["oldest"] - entry["first"]) :]

    def patches(self, journal: Journal, state: Manifest) -> Iterator[tuple[Tensor, dict[tuple[str, ...], Tensor]]]:
        """Slots [N] and entries [N, …] by key to be replaced after all rows of a manifest were written anew."""
        self._change_of.fill_(-1)
        for entry in state["files"]["changes"]:
            tensors = journal.read(entry)
            serials = tensors.pop(_SERIAL)
            live = serials >= self._ring.oldest
            slots = serials[live] % self._ring.capacity
            yield slots, {_key(name): value[live] for name, value in tensors.items()}
            self._change_of[slots] = entry["number"]

    def restored(self, journal: Journal, state: Manifest) -> None:
        """The rows are those of the manifest now; the next save builds on it."""
        self._patched = {_key(name) for name in state["patched"]}
        self._note_saved(journal, state["files"])

    def _note_saved(self, journal: Journal, files: dict[str, list[Entry]]) -> None:
        self._files, self.directory, self._up_to = files, journal.directory, self._ring.serial
        self._changed.zero_()

    def _take(
        self, leaves: Mapping[tuple[str, ...], Tensor], keys: Iterable[tuple[str, ...]], serials: Tensor
    ) -> dict[str, Tensor]:
        """Leaves of the rows by name, and their serials."""
        slots = serials % self._ring.capacity
        named = {leaf_name(key): leaves[key] for key in keys}
        return {_SERIAL: serials} | {name: leaf.index_select(0, slots.to(leaf.device)) for name, leaf in named.items()}


def map_rows(directory: Path) -> list[tuple[Path, dict[tuple[str, ...], Tensor]]]:
    """Files of the rows that a save in this directory holds, and their live rows [n, …] by key, mapped, in order.

    Rows are as they were written: what was patched since (latents, ends of cut episodes) stands beside them.

    Raises FileNotFoundError or ValueError, naming the file, if one is missing or damaged.
    """
    journal = Journal(directory)
    manifest = journal.manifest()
    found = []
    for entry in manifest["files"]["rows"]:
        file = journal.checked(entry)
        rows = _rows(load_file(file))
        if len(rows) != entry["stop"] - entry["first"]:
            raise ValueError(f"{file} holds {len(rows)} rows, but the manifest beside it says otherwise.")
        live = rows[max(0, manifest["oldest"] - entry["first"]) :]
        if len(live):
            found.append((file, {as_tuple(key): leaf for key, leaf in live.items(True, True)}))
    return found


def leaf_name(key: tuple[str, ...]) -> str:
    """What a leaf is called in files."""
    return json.dumps(key)


def _key(name: str) -> tuple[str, ...]:
    return tuple(json.loads(name))


def _rows(tensors: dict[str, Tensor]) -> TensorDict:
    rows = TensorDict({}, batch_size=tensors.pop(_SERIAL).shape)
    leaves = {_key(name): value for name, value in tensors.items()}
    if STREAM not in leaves:
        leaves[STREAM] = leaves.pop(_STREAM_OF_0_6)
    for key, value in leaves.items():
        rows[key] = value
    return rows
