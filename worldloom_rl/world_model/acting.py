"""Acting as one function of tensors, for programs that leave the library: an observation in, an action out.

What a policy carries from step to step goes in and comes out by name, and what it draws goes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.keys import IS_INIT, PREVIOUS_ACTION, as_tuple
from worldloom_rl.noise import GeneratorNoise, ModeNoise, Noise, ReplayNoise
from worldloom_rl.world_model.core import Latent
from worldloom_rl.world_model.model import WorldModel
from worldloom_rl.world_model.policy import LatentPolicy

NEXT = "next."  # before the name of what is carried, where it comes out


@runtime_checkable
class HasActor(Protocol):
    """A model that acts without a plan."""

    def make_actor(self) -> LatentPolicy:
        """The policy over its latents."""


class CarryingPolicy(Protocol):
    """A policy that carries tensors of its own from step to step, as a planner does its warm start."""

    @property
    def carried_spec(self) -> Composite:
        """Their shapes and dtypes by key, without batch dimensions."""

    def act(
        self, latent: Latent, carried: dict[tuple[str, str], Tensor], is_init: Tensor, noise: Noise, *, explore: bool
    ) -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
        """[B, A] flat actions, and what is carried to the next ones."""


@dataclass(frozen=True)
class Port:
    """A tensor that goes in or comes out.

    Attributes:
        shape: without the batch.
        kind: "observation", "carried", "is_init", "action", or the distribution of a draw: "normal", "uniform",
            "exponential", "permutation", "integers below 7".
        batch: before which dimension of the shape the batch stands; None if the rows have the tensor in common.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    batch: int | None = 0

    def sized(self, rows: int) -> tuple[int, ...]:
        """The whole shape."""
        return self.shape if self.batch is None else (*self.shape[: self.batch], rows, *self.shape[self.batch :])


class ActingStep(nn.Module):
    """A step of a model's actor, from `inputs` to `outputs` in their order.

    A recurrent model carries its latent and the flat previous action: what comes out as "next.x" goes in as "x" at the
    next step. Where "is_init" is set an episode begins, and what is carried does not count. Real actions come in the
    environment's own bounds, discrete ones as classes counted from 0.

    Args:
        sample: latents and actions are drawn from noise that goes in; by default both are the likeliest.
        planner: acts in the actor's place. What plans and latents draw goes in then; with `sample` it explores too.
    Raises ValueError if there is neither an actor nor a planner.
    """

    def __init__(self, model: WorldModel, *, sample: bool = False, planner: CarryingPolicy | None = None) -> None:
        super().__init__()
        if planner is None and not isinstance(model, HasActor):
            raise ValueError(
                f"{type(model).__name__} acts by planning alone: export how it plans (--plan), or take a model of "
                "dreamerv3, tdmpc2 or tokens, which have an actor."
            )
        self.model, self.sample, self.planner = model.eval(), sample, planner
        self.actor = model.make_actor() if isinstance(model, HasActor) else None
        self._keys = {".".join(as_tuple(key)): key for key in model.observation_keys}
        self.inputs = [
            Port(name, tuple(leaf.shape), leaf.dtype, "observation")
            for name, leaf in ((name, model.observation_spec[key]) for name, key in self._keys.items())
        ]
        spec = Composite() if planner is None else planner.carried_spec
        self._plan_keys = {".".join(key): key for key in spec.keys(True, True)}
        self._carried = self._carried_ports()
        if self._carried:
            self.inputs += [*self._carried, Port(IS_INIT, (1,), torch.bool, "is_init")]
        self._draws = self._drawn_ports() if self.takes_draws else []
        self.inputs += self._draws
        self.outputs = self._action_ports()
        self.outputs += [Port(NEXT + port.name, port.shape, port.dtype, port.kind) for port in self._carried]

    @property
    def takes_draws(self) -> bool:
        """Whether what is drawn goes in."""
        return self.sample or self.planner is not None

    def _carried_ports(self) -> list[Port]:
        model = self.model
        leaves: dict[str, TensorSpec] = {}
        if model.recurrent:
            leaves = {f"latent.{name}": leaf for name, leaf in model.latent_spec.items()}
            leaves[PREVIOUS_ACTION] = Unbounded((model.action_space.width,), dtype=model.dtype)
        if self.planner is not None:
            leaves |= {name: self.planner.carried_spec[key] for name, key in self._plan_keys.items()}
        return [Port(name, tuple(leaf.shape), leaf.dtype, "carried") for name, leaf in leaves.items()]

    def _action_ports(self) -> list[Port]:
        ports = []
        for part in self.model.action_space.segments:
            shape = tuple(part.shape)
            if part.categories:
                shape = () if len(part.categories) == 1 else (len(part.categories),)
            name = ".".join(as_tuple(part.key))
            ports.append(Port(name, shape, torch.int64 if part.categories else part.dtype, "action"))
        return ports

    def _drawn_ports(self) -> list[Port]:
        """What a step draws, found by taking one of two rows and one of three."""
        device, found = self.model.action_space.center.device, []
        for rows in (2, 3):
            recorder = _Recorder()
            given = [torch.zeros(port.sized(rows), dtype=port.dtype, device=device) for port in self.inputs]
            with torch.no_grad():
                self._act(given, recorder)
            found.append(recorder.ports)
        return [_without_batch(*draw) for draw in zip(*found, strict=True)]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`outputs` [batch, …] of `inputs` [batch, …]."""
        if not self.takes_draws:
            return self._act(tensors, ModeNoise())
        first = len(self.inputs) - len(self._draws)
        draws: dict[str, list[Tensor]] = {}
        for port, value in zip(self._draws, tensors[first:], strict=True):
            draws.setdefault(port.name.split(".")[1], []).append(value)
        return self._act(tensors[:first], ReplayNoise(draws))

    def _act(self, tensors: Sequence[Tensor], noise: Noise) -> tuple[Tensor, ...]:
        model, given = self.model, dict(zip((port.name for port in self.inputs), tensors, strict=False))
        observation = {key: given[name] for name, key in self._keys.items()}
        if model.recurrent:
            previous: Latent = {name: given[f"latent.{name}"] for name, _ in model.latent_spec.items()}
            latent = model.filter_latent(previous, given[PREVIOUS_ACTION], observation, given[IS_INIT], noise)
        else:
            latent = model.encode_latent(observation, noise)
        flat, carried = self._decide(latent, given, noise)
        action = model.action_space.unflatten(flat)
        told = tuple(
            _classes(flat, part.start, part.categories) if part.categories else action[part.key]
            for part in model.action_space.segments
        )
        if not model.recurrent:
            return (*told, *carried)
        return (*told, *latent.values(), model.action_space.flatten(action), *carried)

    def _decide(self, latent: Latent, given: Mapping[str, Tensor], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """[B, A] flat actions, and what the planner carries."""
        if self.planner is not None:
            before = {key: given[name] for name, key in self._plan_keys.items()}
            flat, carried = self.planner.act(latent, before, given[IS_INIT], noise, explore=self.sample)
            return flat, [carried[key] for key in before]
        assert self.actor is not None
        with set_exploration_type(ExplorationType.RANDOM if self.sample else ExplorationType.DETERMINISTIC):
            return self.actor.act(latent, noise), []


def _classes(flat: Tensor, start: int, categories: tuple[int, ...]) -> Tensor:
    """int64 [B], or [B, n] of several: the class of each one-hot group from `start` on."""
    groups = torch.split(flat[..., start : start + sum(categories)], list(categories), -1)
    classes = torch.stack([group.argmax(-1) for group in groups], -1)
    return classes.squeeze(-1) if len(categories) == 1 else classes


def _without_batch(two: Port, three: Port) -> Port:
    """A draw from its shapes for two rows and for three."""
    places = [place for place, sizes in enumerate(zip(two.shape, three.shape, strict=True)) if sizes == (2, 3)]
    assert places or two.shape == three.shape, (two, three)
    shape, batch = list(two.shape), places[0] if places else None
    if batch is not None:
        del shape[batch]
    return replace(two, shape=tuple(shape), batch=batch)


class _Recorder(GeneratorNoise):
    """Draws as others do, and keeps what was asked for, shapes with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []

    def _keep(self, name: str, shape: Sequence[int], dtype: torch.dtype, kind: str) -> None:
        self.ports.append(Port(f"noise.{name}.{len(self.ports)}", tuple(shape), dtype, kind))

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        self._keep(name, shape, like.dtype, "normal")
        return super().normal(name, shape, like)

    def uniform(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        self._keep(name, shape, like.dtype, "uniform")
        return super().uniform(name, shape, like)

    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        self._keep(name, shape, like.dtype, "exponential")
        return super().exponential(name, shape, like)

    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        self._keep(name, shape, torch.int64, f"integers below {high}")
        return super().integers(name, high, shape, like)

    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        self._keep(name, (count,), torch.int64, "permutation")
        return super().permutation(name, count, like)
