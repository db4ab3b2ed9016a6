"""Arrivals: a collector's transitions as replay rows, each an observation with the action and reward that led to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Composite

from worldloom_rl.keys import (
    ACTION,
    CONTINUE,
    DONE,
    IS_INIT,
    RESERVED,
    REWARD,
    STREAM,
    TERMINATED,
    TRUNCATED,
    as_tuple,
    previous_action_keys,
)

_MOST = 2**16  # streams
_TELL = (
    "Where several workers' batches come in any order, append StreamLabel(first) of worldloom_rl.data to each worker's "
    "environment, so that every stream has a number of its own."
)


class Arrived(NamedTuple):
    """What one batch of transitions brings to replay.

    Attributes:
        rows: [N] replay rows, ordered in time within each stream.
        late: [K] stream and latent of the row that stands last in that stream; None if there is none.
    """

    rows: TensorDictBase
    late: TensorDict | None = None


class _Streams:
    """The streams of a batch whose rows [N] stand stream by stream.

    Attributes:
        numbers: [S] ascending.
        first, last: [S] places of each one's first and last row.
        of_rows: [N] each row's.
    """

    def __init__(self, numbers: Tensor, counts: Tensor) -> None:
        ends = counts.cumsum(0)
        self.numbers = numbers
        self.first, self.last = ends - counts, ends - 1
        self.of_rows = numbers.repeat_interleave(counts)


class Arrivals:
    """Replay rows of collector transitions; every frame once, the terminal observation included.

        collector  [E,T]   (o0 a0 | next o1 r1) (o1 a1 | next o2 r2 done) (o0' …
        replay rows        (o0, ·, 0, is_init) (o1, a0, r1) (o2, a1, r2, terminated or truncated) (o0', ·, 0, is_init) …

    A stream is an environment, named by its place in the batch, or by the entry `keys.STREAM` of its transitions, which
    `StreamLabel` writes: batches of several workers need it, since each of them has another worker's environments in
    the same places. An episode starts with an init row, whose previous action and reward are zeros: at the stream's
    first transition, after a done, and where `is_init` is set. float64 becomes float32; other dtypes stay. A latent is
    the posterior at the row's own observation: the last row of a batch gets it when its own transition comes
    (`Arrived.late`), a terminal row keeps zeros.

    Args:
        observation_keys: the observation leaves to keep.
        action_keys: kept as `keys.previous_action_keys(action_keys)`.
        latent_keys: latent leaves that a recurrent policy writes; none for other models.

    Between batches `goes_on` is all its state: a collector that goes on elsewhere needs it there.

    Example:
        >>> from torchrl.envs import GymEnv, InitTracker, TransformedEnv
        >>> from worldloom_rl.data import Arrivals
        >>> env = TransformedEnv(GymEnv("CartPole-v1"), InitTracker())
        >>> rows = Arrivals(["observation"])(env.rollout(5)).rows
        >>> rows["is_init"].flatten().tolist()
        [True, False, False, False, False, False]
    """

    def __init__(
        self,
        observation_keys: Sequence[NestedKey],
        action_keys: Sequence[NestedKey] = (ACTION,),
        latent_keys: Sequence[NestedKey] = (),
    ) -> None:
        if isinstance(observation_keys, str) or not observation_keys:
            raise ValueError(f"observation_keys is {observation_keys!r}: give a list with at least one key.")
        reserved = [key for key in observation_keys if as_tuple(key)[0] in RESERVED]
        if reserved:
            raise ValueError(
                f"The observations {reserved} have names of the key contract, under which other entries stand: rename "
                "them in the environment."
            )
        self.observation_keys = tuple(observation_keys)
        self.action_keys = tuple(action_keys)
        self.latent_keys = tuple(latent_keys)
        self.goes_on: Tensor | None = None  # [E] whether the stream's last row is known and its episode open
        self._last: dict[NestedKey, Tensor] = {}  # [E, …] what was observed last in each stream …
        self._remembers = torch.zeros(0, dtype=torch.bool)  # [E] … where that is known

    def __call__(self, transitions: TensorDictBase) -> Arrived:
        """Rows of transitions [*E, T]; batch [T] is one stream, unless `keys.STREAM` tells several in it.

        Raises:
            KeyError: an entry is missing.
            ValueError: a reward or an observation is NaN or infinite, the number of streams changed, or transitions do
                not go on where those before them ended. −∞ is taken in an observation, where a family may take it for a
                missing entry.
        """
        data, streams = self._by_stream(transitions)
        stream, first = streams.of_rows, streams.first
        done = self._read(data, ("next", DONE)).reshape(-1)
        terminated = self._read(data, ("next", TERMINATED))
        arriving = {key: self._observation(data, ("next", *as_tuple(key)), stream) for key in self.observation_keys}
        observed = {key: self._observation(data, key, stream) for key in self.observation_keys}
        goes_on = self._open(streams)
        follows = ~done.roll(1)
        follows[first] = goes_on[streams.numbers]
        starts = self._read(data, IS_INIT).reshape(-1) | ~follows
        going_on = ~starts[first]
        self._check_continuity(streams, going_on, observed)
        place = torch.arange(len(starts), device=starts.device) + starts.cumsum(0)  # of each arrival
        initial_from, initial_to = starts.nonzero().squeeze(-1), place[starts] - 1

        def interleave(arriving: Tensor, initial: Tensor | None = None) -> Tensor:
            rows = arriving.new_zeros((len(place) + len(initial_to), *arriving.shape[1:]))
            rows.index_copy_(0, place, arriving)
            if initial is not None:
                rows.index_copy_(0, initial_to, initial.index_select(0, initial_from))
            return rows

        rows = TensorDict({}, batch_size=[len(place) + len(initial_to)], device=starts.device)
        for key in self.observation_keys:
            rows[key] = interleave(arriving[key], observed[key])
        for key, stored in zip(self.action_keys, previous_action_keys(self.action_keys), strict=True):
            rows[stored] = interleave(self._read(data, key))
        rows[REWARD] = interleave(self._reward(data, stream))
        rows[TERMINATED] = interleave(terminated)
        cut = done.reshape(terminated.shape) & ~terminated  # the whole truth where an environment has no "truncated"
        rows[TRUNCATED] = interleave(cut | data.get(("next", TRUNCATED), default=cut))
        rows[IS_INIT] = interleave(torch.zeros_like(terminated), torch.ones_like(terminated))
        rows[STREAM] = interleave(stream, stream)
        begins = starts.index_fill(0, first, True)
        late = TensorDict({STREAM: streams.numbers[going_on]}, batch_size=[int(going_on.sum())], device=starts.device)
        for key in self.latent_keys:
            latent = self._latent(data, key)
            rows[key] = interleave(_next_latent(latent, begins), latent)
            late[key] = latent[first[going_on]]
        goes_on[streams.numbers] = ~done[streams.last]
        self.goes_on = goes_on
        self._remembers = _with_room(self._remembers, len(goes_on)).index_fill(0, streams.numbers.cpu(), True)
        for key, value in arriving.items():
            self._last[key] = _with_room(self._last.get(key, value[:0]), len(goes_on))
            self._last[key].index_copy_(0, streams.numbers, value.index_select(0, streams.last))
        return Arrived(rows, late if self.latent_keys and len(late) else None)

    def row_bytes(self, observation_spec: Composite, action_spec: Composite, latent_spec: Composite) -> int:
        """Bytes of a row's leaves: observation, previous action, latent, reward, three flags and the stream."""
        specs = [observation_spec[key] for key in self.observation_keys]
        specs += [action_spec[key] for key in self.action_keys]
        specs += [latent_spec[as_tuple(key)[-1]] for key in self.latent_keys]
        leaves: int = sum(spec.shape.numel() * spec.dtype.itemsize for spec in specs)
        return leaves + 4 + 3 + 8

    def _read(self, data: TensorDictBase, key: NestedKey) -> Tensor:
        """The entry, float64 as float32."""
        found = data.get(key, default=None)
        if found is None:
            given = sorted(map(str, data.keys(include_nested=True, leaves_only=True)))
            remedy = "append InitTracker() to the environment." if key == IS_INIT else "name the keys it has."
            raise KeyError(f"the transitions have no entry {key!r}; they hold {given}: {remedy}")
        value: Tensor = found.detach()
        return value.float() if value.dtype == torch.float64 else value

    def _latent(self, data: TensorDictBase, key: NestedKey) -> Tensor:
        """What the policy wrote: an environment carries it to "next", and a collector that has a `policy_device` keeps
        at the root what was there before. An `ImaginationEnv`, which alone foresees whether it goes on, has there the
        latent of the next observation instead."""
        carried: NestedKey = ("next", *as_tuple(key))
        if data.get(carried, default=None) is None:
            return self._read(data, key)
        if data.get(("next", CONTINUE), default=None) is not None:
            raise ValueError(
                f"the transitions are imagined: they hold {('next', CONTINUE)}, and at {carried} a foreseen latent "
                "where collected ones have the posterior of the observation before. Give Arrivals no latent_keys."
            )
        return self._read(data, carried)

    def _by_stream(self, transitions: TensorDictBase) -> tuple[TensorDictBase, _Streams]:
        """The transitions [N] stream by stream, in time within each, and the streams."""
        data = transitions.reshape(-1)
        told = data.get(STREAM, default=None)
        if told is None:
            count, steps = transitions.shape[:-1].numel(), transitions.shape[-1]
            if self.goes_on is not None and len(self.goes_on) != count:
                raise ValueError(
                    f"the transitions have {count} streams and had {len(self.goes_on)} before: make one Arrivals (and "
                    f"one replay, or its own range of streams) per collector. {_TELL}"
                )
            numbers = torch.arange(count, device=data.device)
            return data, _Streams(numbers, torch.full_like(numbers, steps))
        stream = told.reshape(-1)
        if stream.is_floating_point() or (len(stream) and not 0 <= int(stream.min()) <= int(stream.max()) < _MOST):
            raise ValueError(f"{STREAM} must be whole numbers from 0 to {_MOST - 1}, one an environment, got {told}.")
        order = stream.argsort(stable=True)
        return data[order], _Streams(*stream[order].long().unique_consecutive(return_counts=True))

    def _open(self, streams: _Streams) -> Tensor:
        """bool [E] whether the last row of each stream is known and its episode open."""
        before = torch.zeros(0, dtype=torch.bool) if self.goes_on is None else self.goes_on
        most = int(streams.numbers[-1]) + 1 if len(streams.numbers) else 0
        return _with_room(before.to(streams.numbers.device), most).clone()

    def _check_continuity(self, streams: _Streams, going_on: Tensor, observed: dict[NestedKey, Tensor]) -> None:
        """Raise ValueError where a stream goes on from something else than it ended at."""
        if not self._last:
            return
        most = int(streams.numbers[-1]) + 1
        asked = going_on & _with_room(self._remembers, most).to(going_on.device)[streams.numbers]
        for key, value in observed.items():
            before = _with_room(self._last[key], most).index_select(0, streams.numbers)
            same = (value.index_select(0, streams.first) == before).reshape(len(before), -1).all(1)
            if bool((asked & ~same).any()):
                number = int(streams.numbers[asked & ~same][0])
                raise ValueError(
                    f"the transitions of stream {number} go on from another {key!r} than those before ended at: they "
                    f"are another environment's. {_TELL}"
                )

    def _reward(self, data: TensorDictBase, stream: Tensor) -> Tensor:
        reward = self._read(data, ("next", REWARD))
        if not bool(reward.isfinite().all()):
            _refuse("rewards", ~reward.isfinite(), stream)
        return reward

    def _observation(self, data: TensorDictBase, key: NestedKey, stream: Tensor) -> Tensor:
        value = self._read(data, key)
        if value.is_floating_point() and not bool(value.isfinite().all()):
            wrong = value.isnan() | value.isposinf()
            if wrong.any():
                _refuse(f"observations {key!r}", wrong, stream)
        return value


def _next_latent(latent: Tensor, begins: Tensor) -> Tensor:
    """[N, …] latent of the observation arrived at: that of the next transition, zeros where none continues."""
    following = torch.zeros_like(latent)
    following[:-1] = latent[1:]
    following[:-1][begins[1:]] = 0
    return following


def _with_room(values: Tensor, length: int) -> Tensor:
    """Values [E, …], with zeros behind if they are fewer than that."""
    missing = length - len(values)
    return torch.cat([values, values.new_zeros((missing, *values.shape[1:]))]) if missing > 0 else values


def _refuse(what: str, wrong: Tensor, stream: Tensor) -> NoReturn:
    """Raise ValueError for numbers [N, ...] of which some are wrong."""
    bad = wrong.reshape(len(wrong), -1).any(-1).nonzero().squeeze(-1)
    place = int(bad[0])
    time = int((stream[:place] == stream[place]).sum())
    raise ValueError(
        f"{len(bad)} of {len(wrong)} {what} are NaN or infinite, the first in stream {int(stream[place])} at time "
        f"{time}: mend the environment or the data before they enter replay."
    )
