"""The state of running environments as plain JSON, so that a resumed run goes on in the middle of an episode.

What can be kept: gymnasium environments, wrappers and the objects they hold whose attributes are numbers, strings,
arrays, NumPy's random generators, or lists, tuples, dictionaries and deques of them; MuJoCo simulations, gymnasium's
and DeepMind Control's; several side by side, also in processes of `make_env`. What cannot: anything in a compiled
library that does not show its state (the Atari emulator); `CannotKeep` then names it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from torchrl.envs import EnvBase

from worldloom_rl.config import Json
from worldloom_rl.envs.mujoco_state import restore_simulation, simulation_of, simulation_state
from worldloom_rl.envs.plain_json import decode, encode, plain, unplain
from worldloom_rl.envs.real import of_each
from worldloom_rl.envs.simulator_output import Simulator

# Part of how an environment was made, not of where it stands: the restored environment has its own.
_FIXED = (
    gymnasium.Space, EnvSpec, type, PurePath, ModuleType, FunctionType, BuiltinFunctionType, MethodType,
)  # fmt: skip
_DRAWING = ("pygame", "gymnasium.envs.mujoco.mujoco_rendering", "dm_control._render")  # drawn anew at every frame
_PLAIN = (bool, int, float, str, type(None))


class _Attributes:
    """An object with no state but its attributes; slots and what compiled types keep would make it larger."""


class CannotKeep(Exception):
    """An environment holds something whose state cannot be read or put back."""


def environment_state(env: EnvBase) -> list[Json]:
    """Where each of the environments of `make_env` stands, one entry for each simulator.

    Raises CannotKeep, naming the attribute, if that cannot be told completely.
    """
    try:
        return list(of_each(env, _read))
    except TypeError as error:
        raise CannotKeep(str(error)) from error
    except RecursionError as error:
        raise CannotKeep("an environment's objects are nested too deeply.") from error


def restore_environment(env: EnvBase, state: list[Json]) -> None:
    """Puts environments made by the same `make_env` call where `environment_state` found them.

    Raises CannotKeep if an environment is built differently from the one the state is of.
    """
    present = max(1, env.batch_size.numel())
    if present != len(state):
        raise CannotKeep(f"{len(state)} environments were kept, {present} are to be restored.")
    list(of_each(env, _restore, state))


def _read(simulator: Simulator) -> Json:
    return _Reader().read(simulator, type(simulator).__name__)


def _restore(simulator: Simulator, kept: Json) -> None:
    _write(simulator, kept, type(simulator).__name__)


class _Reader:
    """Reads one simulator. Every object and container is met once: a second way to it would be lost by restoring."""

    def __init__(self) -> None:
        self._met: dict[int, str] = {}
        self._arrays: list[tuple[np.ndarray, str]] = []
        self._kept_alive: list[object] = []

    def read(self, value: object, name: str) -> Json:
        if type(value) in _PLAIN:
            return value
        if isinstance(value, Enum):
            return {"enum": type(value).__qualname__, "name": value.name}
        if isinstance(value, np.generic):
            return {"scalar": encode(np.asarray(value))}
        if isinstance(value, np.ndarray):
            self._check_memory(value, name)
            return {"array": encode(value)}
        if type(value) is tuple:
            return {"tuple": self._items(value, name)}
        if isinstance(value, np.random.Generator):
            return {"generator": plain(value.bit_generator.state)}
        if isinstance(value, np.random.RandomState):
            return {"generator": plain(value.get_state(legacy=False))}
        if _is_fixed(value):
            return {"fixed": type(value).__name__}
        if id(value) in self._met:
            if isinstance(value, list | dict | deque):
                raise CannotKeep(f"{name} and {self._met[id(value)]} are one and the same {type(value).__name__}.")
            return {"fixed": type(value).__name__}  # an object, restored in place where it was met first
        self._met[id(value)] = name
        self._kept_alive.append(value)
        if type(value) is list:
            return {"list": self._items(value, name)}
        if type(value) is deque:
            return {"deque": self._items(value, name), "maxlen": value.maxlen}
        if type(value) is dict:
            pairs = [[self.read(key, name), self.read(leaf, f"{name}[{key!r}]")] for key, leaf in value.items()]
            return {"dict": pairs}
        if not hasattr(value, "__dict__") or type(value).__basicsize__ > _Attributes.__basicsize__:
            raise CannotKeep(f"{name} is of type {type(value).__module__}.{type(value).__qualname__}.")
        kept: dict[str, Json] = {"object": type(value).__qualname__}
        attributes = vars(value)
        simulation = simulation_of(value)
        if simulation is not None:
            kept["mujoco"] = encode(simulation_state(*simulation))
            gymnasium_env = isinstance(value, gymnasium.Env)  # DeepMind Control's Physics only shows its simulation
            attributes = {k: v for k, v in attributes.items() if gymnasium_env and k not in ("model", "data")}
        kept["attributes"] = {key: self.read(leaf, f"{name}.{key}") for key, leaf in attributes.items()}
        return kept

    def _items(self, values: Iterable[object], name: str) -> list[Json]:
        return [self.read(item, f"{name}[{place}]") for place, item in enumerate(values)]

    def _check_memory(self, value: np.ndarray, name: str) -> None:
        if value.dtype.kind not in "biufcSU":
            raise CannotKeep(f"{name} is an array of dtype {value.dtype}.")
        for other, where in self._arrays:
            if np.may_share_memory(value, other):
                raise CannotKeep(f"{name} and {where} are views of the same memory.")
        self._arrays.append((value, name))


def _write(value: object, kept: Json, name: str) -> object:
    """The value that was kept; objects and generators that are there already are changed in place."""
    if isinstance(kept, _PLAIN):
        return kept
    match kept:
        case {"scalar": encoded}:
            return decode(encoded)[()]
        case {"array": encoded}:
            return decode(encoded)
        case {"tuple": items}:
            return tuple(_items(value, items, name))
        case {"list": items}:
            return _items(value, items, name)
        case {"deque": items, "maxlen": longest}:
            return deque(_items(value, items, name), longest)
        case {"dict": pairs}:
            present = value if isinstance(value, dict) else {}
            keys = [_write(None, key, name) for key, _ in pairs]
            leaves = zip(keys, (leaf for _, leaf in pairs), strict=True)
            return {key: _write(present.get(key), leaf, f"{name}[{key!r}]") for key, leaf in leaves}
        case {"generator": state}:
            return _write_generator(value, state, name)
        case {"enum": kind, "name": member}:
            if not isinstance(value, Enum) or type(value).__qualname__ != kind:
                raise CannotKeep(f"{name} was a {kind} and is now a {type(value).__qualname__}.")
            return type(value)[member]
        case {"fixed": _}:
            return value
        case {"object": expected, "attributes": attributes}:
            simulation = simulation_of(value)
            if type(value).__qualname__ != expected or (simulation is not None) != ("mujoco" in kept):
                raise CannotKeep(f"{name} was a {expected} and is now a {type(value).__qualname__}.")
            if simulation is not None:
                restore_simulation(*simulation, decode(kept["mujoco"]))
            for key, leaf in attributes.items():
                there = vars(value).get(key)
                written = _write(there, leaf, f"{name}.{key}")
                if written is not there:
                    vars(value)[key] = written
            return value
    raise CannotKeep(f"{name} is kept in an unknown form: {str(kept)[:80]}.")


def _items(value: object, items: list[Json], name: str) -> list[object]:
    present: list[object] = [None] * len(items)
    if isinstance(value, list | tuple | deque) and len(value) == len(items):
        present = list(value)
    pairs = enumerate(zip(present, items, strict=True))
    return [_write(there, item, f"{name}[{place}]") for place, (there, item) in pairs]


def _write_generator(value: object, state: Json, name: str) -> object:
    if isinstance(value, np.random.RandomState):
        value.set_state(unplain(state))
        return value
    generator = value if isinstance(value, np.random.Generator) else np.random.default_rng()
    if state["bit_generator"] != generator.bit_generator.state["bit_generator"]:
        raise CannotKeep(f"{name} drew from {state['bit_generator']}, not from NumPy's default generator.")
    generator.bit_generator.state = unplain(state)
    return generator


def _is_fixed(value: object) -> bool:
    return isinstance(value, _FIXED) or type(value).__module__.startswith(_DRAWING) or callable(value)
