"""Episodes of several sources as one set: tasks numbered through, vectors and actions brought to one width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, TensorSpec, Unbounded

from worldloom_rl.config import did_you_mean
from worldloom_rl.data.episodes import TASK, Episodes
from worldloom_rl.keys import ACTION, PREVIOUS_ACTION, previous_action_keys
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.specs.observations import is_real_vector, leaves_of


def join(parts: Sequence[Episodes], tasks: Sequence[str] | None = None) -> Episodes:
    """The episodes of all parts as one set; a single part that needs no change is itself the set.

    Parts of one task whose actions have different bounds, as where they are those that were seen, get the widest. Where
    tasks differ, vectors are padded with zeros on the right to the widest. Actions of several tasks are mapped from
    each task's own bounds to [-1, 1] and padded with zeros, as an environment of several tasks takes them. One task's
    rows stay as they are.

    Args:
        tasks: names, in the order that numbers them; what stands before their last ":" does not matter, and episodes
            of other tasks are left out. By default all names of the parts, in their order.
    Raises ValueError for a task without episodes, a part whose task is not known, or parts that cannot be one set.
    """
    names = tuple(tasks) if tasks else _names(parts)
    _widen_bounds(parts)
    if len({short_name(name) for name in names}) < len(names):
        raise ValueError(f"Tasks have different names (what stands before ':' does not count), got {list(names)}.")
    if len(parts) == 1 and _same(parts[0].names, names):
        if names:
            parts[0].names = names
        return parts[0]
    return JoinedEpisodes(parts, names)


class JoinedEpisodes(Episodes):
    """See `join`."""

    def __init__(self, parts: Sequence[Episodes], names: tuple[str, ...]) -> None:
        self.parts, self.names = parts, names
        self.source = " and ".join(part.source for part in parts)
        places, lengths, tasks, starts = [], [], [], []
        for number, part in enumerate(parts):
            task = _renumbered(part, names)
            chosen = task >= 0
            places.append(torch.full((int(chosen.sum()),), number))
            lengths.append(part.lengths[chosen])
            tasks.append(task[chosen])
            starts.append((part.ends - part.lengths)[chosen])
        self._part, self.lengths = torch.cat(places), torch.cat(lengths)
        self.tasks, self._starts = torch.cat(tasks), torch.cat(starts)  # starts: first rows, as their part counts them
        _check_all_there(self, names)
        self._actions = [ActionSpace(part.action_spec) if self.several else None for part in parts]
        self.observation_spec = _joined_observations(parts, len(names))
        self.action_spec = self._joined_actions()
        if not self.several and (seen := [part.seen_actions for part in parts if part.seen_actions]):
            lows, highs = zip(*seen, strict=True)
            if len(seen) == len(parts):
                self.seen_actions = torch.stack(lows).amin(0), torch.stack(highs).amax(0)

    def _joined_actions(self) -> Composite:
        specs = [part.action_spec for part in self.parts]
        if not self.several:
            for part, spec in zip(self.parts[1:], specs[1:], strict=True):
                if leaves_of(spec) != leaves_of(specs[0]):
                    forms = [
                        {key: f"{list(leaf.shape)} {leaf.dtype}" for key, leaf in leaves_of(each).items()}
                        for each in (specs[0], spec)
                    ]
                    raise ValueError(f"{self.parts[0].source} has the actions {forms[0]}, {part.source} {forms[1]}.")
            return specs[0]
        for part, space in zip(self.parts, self._actions, strict=True):
            if space is not None and not space.is_continuous:
                raise ValueError(
                    f"{part.source} has discrete actions, which cannot be brought to the width of other tasks'; "
                    "several tasks need continuous ones."
                )
        width = max(space.width for space in self._actions if space is not None)
        return Composite({ACTION: Bounded(-1.0, 1.0, shape=(width,), dtype=torch.float32)})

    def rows(self, index: Tensor) -> TensorDict:
        episode, step = self.places(index.reshape(-1))
        part_of, number = self._part[episode], self._starts[episode] + step
        found: list[TensorDict] = []
        places: list[Tensor] = []
        for part in sorted(set(part_of.tolist())):
            place = (part_of == part).nonzero().squeeze(-1)
            found.append(self._brought(part, self.parts[part].rows(number[place])))
            places.append(place)
        rows: TensorDict = found[0] if len(found) == 1 else torch.cat(found)[torch.cat(places).argsort()]
        rows = rows.exclude(TASK)  # which a part numbers in its own way
        if self.several:
            rows[TASK] = self.tasks[episode]
        return rows.reshape(index.shape)

    def _brought(self, part: int, rows: TensorDict) -> TensorDict:
        """Rows [N] of a part in the form of the set."""
        space = self._actions[part]
        if space is not None:
            stored = previous_action_keys(space.keys)
            flat = space.flatten({key: rows[name] for key, name in zip(space.keys, stored, strict=True)})
            first = rows["is_init"]
            rows = rows.exclude(*stored)
            flat = flat.masked_fill(first, 0.0)  # no action led there, whatever the bounds' centre is
            rows[PREVIOUS_ACTION] = _padded(flat, self.action_spec[ACTION])
        for key, leaf in leaves_of(self.observation_spec).items():
            if is_real_vector(leaf):
                rows[key] = _padded(rows[key], leaf)
        return rows

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def files(self) -> Sequence[Path]:
        return [file for part in self.parts for file in part.files()]

    def kept(self) -> Episodes:
        kept = [part.kept() for part in self.parts]
        unchanged = all(new is old for new, old in zip(kept, self.parts, strict=True))
        return self if unchanged else JoinedEpisodes(kept, self.names)


def short_name(name: str) -> str:
    """A task's name without what says who makes its environment: "dmc:cup-catch" is "cup-catch"."""
    return name.rpartition(":")[2]


def _same(names: Sequence[str], others: Sequence[str]) -> bool:
    if len(names) <= 1 and len(others) == 1:
        return not names or short_name(names[0]) == short_name(others[0])
    return [*map(short_name, names)] == [*map(short_name, others)]


def _names(parts: Sequence[Episodes]) -> tuple[str, ...]:
    """All names of the parts in their order; none if no part has one."""
    ordered: dict[str, str] = {}
    for name in (name for part in parts for name in part.names):
        ordered.setdefault(short_name(name), name)
    unnamed = [part.source for part in parts if not part.names]
    if unnamed and ordered:
        raise ValueError(f"Nobody says which task {unnamed[0]} is of: give it as NAME={unnamed[0]}.")
    return tuple(ordered.values())


def _renumbered(part: Episodes, names: Sequence[str]) -> Tensor:
    """[E] each episode's place in the names, -1 for a task that is not among them."""
    if not part.names:
        if len(names) > 1:
            raise ValueError(f"Nobody says which of the tasks {part.source} is of: give it as NAME={part.source}.")
        return torch.zeros_like(part.tasks)
    numbers = {short_name(name): number for number, name in enumerate(names)}
    table = torch.tensor([numbers.get(short_name(name), -1) for name in part.names])
    return table[part.tasks]


def _check_all_there(episodes: JoinedEpisodes, names: Sequence[str]) -> None:
    counts = torch.bincount(episodes.tasks, minlength=max(1, len(names)))
    for number, name in enumerate(names):
        if not counts[number]:
            known = {short_name(each) for part in episodes.parts for each in part.names}
            guess = did_you_mean(short_name(name), known)
            raise ValueError(
                f"There is no episode of the task {name!r} in {episodes.source}.{guess} If all of a source is of it, "
                f"give that as {name}=…"
            )


def _joined_observations(parts: Sequence[Episodes], tasks: int) -> Composite:
    specs = [{key: leaf for key, leaf in leaves_of(part.observation_spec).items() if key != TASK} for part in parts]
    joined = Composite()
    for part, spec in zip(parts[1:], specs[1:], strict=True):
        if spec.keys() != specs[0].keys():
            raise ValueError(
                f"{parts[0].source} has the observations {sorted(map(str, specs[0]))}, {part.source} "
                f"{sorted(map(str, spec))}: what is learned from together has the same names."
            )
    for key, first in specs[0].items():
        leaves = [spec[key] for spec in specs]
        if tasks > 1 and all(map(is_real_vector, leaves)):
            joined[key] = Unbounded((max(leaf.shape[0] for leaf in leaves),))
            continue
        for part, leaf in zip(parts, leaves, strict=True):
            if (leaf.shape, leaf.dtype) != (first.shape, first.dtype):
                raise ValueError(
                    f"{key!r} is {tuple(first.shape)} of {first.dtype} in {parts[0].source}, but {tuple(leaf.shape)} "
                    f"of {leaf.dtype} in {part.source}: only vectors of different tasks are brought to one width."
                )
        joined[key] = first
    if tasks > 1:
        joined[TASK] = Categorical(tasks, shape=(), dtype=torch.int64)
    return joined


def _padded(value: Tensor, leaf: TensorSpec) -> Tensor:
    return F.pad(value, (0, leaf.shape[-1] - value.shape[-1]))


def _widen_bounds(parts: Sequence[Episodes]) -> None:
    """Parts of one task that take the same real actions have the same bounds from now on."""
    by_task: dict[str, list[Episodes]] = {}
    for part in parts:
        if not part.several:
            by_task.setdefault(short_name(part.names[0]) if part.names else "", []).append(part)
    for same in by_task.values():
        specs = [leaves_of(part.action_spec) for part in same]
        forms = [{key: leaf.shape for key, leaf in spec.items()} for spec in specs]
        if all(form == forms[0] for form in forms):  # others are refused
            common = Composite({key: _widest([spec[key] for spec in specs]) for key in specs[0]})
            for part in same:
                part.action_spec = common


def _widest(leaves: Sequence[TensorSpec]) -> TensorSpec:
    first = leaves[0]
    if not all(
        isinstance(leaf, Bounded) and leaf.shape == first.shape and leaf.dtype == first.dtype for leaf in leaves
    ):
        return first
    low, high = (torch.stack([getattr(leaf.space, name) for leaf in leaves]) for name in ("low", "high"))
    return Bounded(low.amin(0), high.amax(0), shape=first.shape, dtype=first.dtype)
