"""Acting as one function of tensors, for programs that leave the library: an observation in, an action out.

What a policy carries from step to step goes in and comes out by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
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


@dataclass(frozen=True)
class Port:
    """A tensor [batch, *shape] that goes in or comes out.

    Attributes:
        kind: "observation", "carried", "is_init", "action", or the distribution of a draw: "normal", "uniform",
            "exponential", "integers below 7".
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str


class ActingStep(nn.Module):
    """A step of a model's actor, from `inputs` to `outputs` in their order.

    A recurrent model carries its latent and the flat previous action: what comes out as "next.x" goes in as "x" at the
    next step. Where "is_init" is set an episode begins, and what is carried does not count. Real actions come in the
    environment's own bounds, discrete ones as classes counted from 0.

    Args:
        sample: latents and actions are drawn from noise that goes in; by default both are the likeliest.
    Raises ValueError for a model without an actor.
    """

    def __init__(self, model: WorldModel, *, sample: bool = False) -> None:
        super().__init__()
        if not isinstance(model, HasActor):
            raise ValueError(
                f"{type(model).__name__} acts by planning alone, and plans are not exported: a model of dreamerv3, "
                "tdmpc2 or tokens has an actor."
            )
        self.model, self.policy = model.eval(), model.make_actor()
        self.sample = sample
        self._keys = {".".join(as_tuple(key)): key for key in model.observation_keys}
        self.inputs = [
            Port(name, tuple(leaf.shape), leaf.dtype, "observation")
            for name, leaf in ((name, model.observation_spec[key]) for name, key in self._keys.items())
        ]
        self._carried = self._carried_ports() if model.recurrent else []
        if model.recurrent:
            self.inputs += [*self._carried, Port(IS_INIT, (1,), torch.bool, "is_init")]
        self._draws = self._drawn_ports() if sample else []
        self.inputs += self._draws
        self.outputs = self._action_ports()
        self.outputs += [Port(NEXT + port.name, port.shape, port.dtype, port.kind) for port in self._carried]

    def _carried_ports(self) -> list[Port]:
        model = self.model
        leaves = [
            Port(f"latent.{name}", tuple(leaf.shape), leaf.dtype, "carried") for name, leaf in model.latent_spec.items()
        ]
        return [*leaves, Port(PREVIOUS_ACTION, (model.action_space.width,), model.dtype, "carried")]

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
        """What a step draws, found by taking one."""
        recorder = _Recorder()
        zeros = [torch.zeros(2, *port.shape, dtype=port.dtype) for port in self.inputs]
        device = self.model.action_space.center.device
        with torch.no_grad():
            self._act([value.to(device) for value in zeros], recorder)
        return recorder.ports

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`outputs` [batch, …] of `inputs` [batch, …]."""
        if not self.sample:
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
        with set_exploration_type(ExplorationType.RANDOM if self.sample else ExplorationType.DETERMINISTIC):
            flat = self.policy.act(latent, noise)
        action = model.action_space.unflatten(flat)
        told = tuple(
            _classes(flat, part.start, part.categories) if part.categories else action[part.key]
            for part in model.action_space.segments
        )
        if not model.recurrent:
            return told
        return (*told, *latent.values(), model.action_space.flatten(action))


def _classes(flat: Tensor, start: int, categories: tuple[int, ...]) -> Tensor:
    """int64 [B], or [B, n] of several: the class of each one-hot group from `start` on."""
    groups = torch.split(flat[..., start : start + sum(categories)], list(categories), -1)
    classes = torch.stack([group.argmax(-1) for group in groups], -1)
    return classes.squeeze(-1) if len(categories) == 1 else classes


class _Recorder(GeneratorNoise):
    """Draws as others do, and keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []

    def _keep(self, name: str, shape: Sequence[int], dtype: torch.dtype, kind: str) -> None:
        self.ports.append(Port(f"noise.{name}.{len(self.ports)}", tuple(shape)[1:], dtype, kind))

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
