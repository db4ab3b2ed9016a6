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


class Arrived(NamedTuple):
    """What one batch of transitions brings to replay.

    Attributes:
        rows: [N] replay rows, ordered in time within each stream.
        late: [K] stream and latent of the row that stands last in that stream; None if there is none.
    """

    rows: TensorDictBase
    late: TensorDict | None = None


class Arrivals:
    """Replay rows of collector transitions; every frame once, the terminal observation included.

        collector  [E,T]   (o0 a0 | next o1 r1) (o1 a1 | next o2 r2 done) (o0' …
        replay rows        (o0, ·, 0, is_init) (o1, a0, r1) (o2, a1, r2, terminated or truncated) (o0', ·, 0, is_init) …

    A stream is an environment, named by its place in the batch. An episode starts with an init row, whose previous
    action and reward are zeros: at the stream's first transition, after a done, and where `is_init` is set. float64
    becomes float32; other dtypes stay. A latent is the posterior at the row's own observation: the last row of a batch
    gets it when its own transition comes (`Arrived.late`), a terminal row keeps zeros.

    Args:
        observation_keys: the observation leaves to keep.
        action_keys: kept as `keys.previous_action_keys(action_keys)`.
        latent_keys: latent leaves written by a recurrent policy at the root; none for other models.

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

    def __call__(self, transitions: TensorDictBase) -> Arrived:
        """Rows of transitions [*E, T]; batch [T] is one stream.

        Raises:
            KeyError: an entry is missing.
            ValueError: a reward or an observation is NaN or infinite, or the number of streams changed. −∞ is taken in
                an observation, where a family may take it for a missing entry.
        """
        data = transitions.reshape(-1, transitions.shape[-1])
        done = self._read(data, ("next", DONE)).reshape(data.shape)
        terminated = self._read(data, ("next", TERMINATED))
        starts = self._starts(self._read(data, IS_INIT).reshape(data.shape), done)
        place = torch.arange(starts.numel(), device=starts.device) + starts.reshape(-1).cumsum(0)  # of each arrival
        first = (starts.reshape(-1).nonzero().squeeze(-1), place[starts.reshape(-1)] - 1)

        def interleave(arriving: Tensor, initial: Tensor | None = None) -> Tensor:
            rows = arriving.new_zeros((starts.numel() + first[0].numel(), *arriving.shape[2:]))
            rows.index_copy_(0, place, arriving.flatten(0, 1))
            if initial is not None:
                rows.index_copy_(0, first[1], initial.flatten(0, 1).index_select(0, first[0]))
            return rows

        rows = TensorDict({}, batch_size=[place.numel() + first[0].numel()], device=starts.device)
        for key in self.observation_keys:
            arriving, initial = self._observation(data, ("next", *as_tuple(key))), self._observation(data, key)
            rows[key] = interleave(arriving, initial)
        for key, stored in zip(self.action_keys, previous_action_keys(self.action_keys), strict=True):
            rows[stored] = interleave(self._read(data, key))
        rows[REWARD] = interleave(self._reward(data))
        rows[TERMINATED] = interleave(terminated)
        cut = done.reshape(terminated.shape) & ~terminated  # the whole truth where an environment has no "truncated"
        rows[TRUNCATED] = interleave(cut | data.get(("next", TRUNCATED), default=cut))
        rows[IS_INIT] = interleave(torch.zeros_like(terminated), torch.ones_like(terminated))
        stream = torch.arange(len(data), device=starts.device)
        rows[STREAM] = interleave(*2 * (stream.unsqueeze(-1).expand(data.shape),))
        for key in self.latent_keys:
            rows[key] = interleave(self._next_latent(self._read(data, key), starts), self._read(data, key))
        late = self._late(data, starts, stream)
        self.goes_on = ~done[:, -1]
        return Arrived(rows, late)

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

    def _reward(self, data: TensorDictBase) -> Tensor:
        reward = self._read(data, ("next", REWARD))
        if not bool(reward.isfinite().all()):
            _refuse("rewards", ~reward.isfinite())
        return reward

    def _observation(self, data: TensorDictBase, key: NestedKey) -> Tensor:
        value = self._read(data, key)
        if value.is_floating_point() and not bool(value.isfinite().all()):
            wrong = value.isnan() | value.isposinf()
            if wrong.any():
                _refuse(f"observations {key!r}", wrong)
        return value

    def _starts(self, is_init: Tensor, done: Tensor) -> Tensor:
        """[E, T] where an init row stands before the arrival."""
        goes_on = torch.zeros_like(done[:, 0]) if self.goes_on is None else self.goes_on.to(done.device)
        if len(goes_on) != len(done):
            raise ValueError(
                f"the transitions have {len(done)} streams and had {len(goes_on)} before: "
                "make one Arrivals (and one replay, or its own range of streams) per collector."
            )
        return is_init | ~torch.cat([goes_on.unsqueeze(-1), ~done[:, :-1]], -1)

    @staticmethod
    def _next_latent(latent: Tensor, starts: Tensor) -> Tensor:
        """[E, T, ...] latent of the observation arrived at: that of the next transition, zeros where none continues."""
        following = torch.zeros_like(latent)
        following[:, :-1] = latent[:, 1:]
        following[:, :-1][starts[:, 1:]] = 0
        return following

    def _late(self, data: TensorDictBase, starts: Tensor, stream: Tensor) -> TensorDict | None:
        """Latents of the rows that earlier batches left without."""
        known = ~starts[:, 0]
        if not self.latent_keys or not known.any():
            return None
        late = TensorDict({STREAM: stream[known]}, batch_size=[int(known.sum())], device=starts.device)
        for key in self.latent_keys:
            late[key] = self._read(data, key)[known, 0]
        return late


def _refuse(what: str, wrong: Tensor) -> NoReturn:
    """Raise ValueError for numbers [E, T, ...] of which some are wrong."""
    bad = wrong.reshape(*wrong.shape[:2], -1).any(-1).nonzero()
    stream, time = bad[0].tolist()
    raise ValueError(
        f"{len(bad)} of {wrong.shape[0] * wrong.shape[1]} {what} are NaN or infinite, the first in stream {stream} at "
        f"time {time}: mend the environment or the data before they enter replay."
    )
