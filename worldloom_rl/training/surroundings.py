"""What a run was made with: its environment and the libraries, to be compared when it goes on."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gymnasium
from torchrl.envs import EnvBase

from worldloom_rl.atomic import write_json
from worldloom_rl.config import Json
from worldloom_rl.envs import episode_length
from worldloom_rl.envs.real import of_each
from worldloom_rl.envs.simulator_output import Simulator
from worldloom_rl.specs.saved import spec_to_json
from worldloom_rl.training.manifest import DamagedCheckpoint, read_json
from worldloom_rl.training.recipe import ConfigT, ModelT, RunState

ENVIRONMENT_FILE = "environment.json"
_PACKAGES = ("worldloom-rl", "torch", "torchrl", "tensordict", "gymnasium", "numpy")
_SIMULATORS = ("mujoco", "dm_control", "ale_py", "Box2D")  # beneath environments that are packages themselves
_ROOM = 160  # characters of a value in a message


def surroundings(state: RunState[ConfigT, ModelT]) -> dict[str, Json]:
    """What the run's environment looks like, and the versions of the libraries; plain JSON."""
    model, env = state.model, state.source.environment
    seen: dict[str, Json] = {
        "what the model observes": spec_to_json(model.observation_spec),
        "what the model does": spec_to_json(model.action_spec),
    }
    if env is None:
        return {"spaces": {}, "environment": {}, "versions": _versions(_PACKAGES)}
    made_of = _first(env)
    with suppress(ValueError):  # an environment that was not made by name
        seen["the longest episode in agent steps"] = episode_length(env)
    if made_of is None:
        return {"spaces": seen, "environment": {}, "versions": _versions(_PACKAGES)}
    return {**made_of, "spaces": {**made_of["spaces"], **seen}}


def _surroundings_of(simulator: Simulator) -> dict[str, Json]:
    inner = simulator.unwrapped
    spec, kind = inner.spec, type(inner)
    return {
        "spaces": {"the observation space": str(inner.observation_space), "the action space": str(inner.action_space)},
        "environment": {
            "the class of the environment": f"{kind.__module__}.{kind.__qualname__}",
            "the arguments of the environment": {}
            if spec is None
            else {name: repr(value) for name, value in spec.kwargs.items()},
            "the checksum of its file": _digest_of_source(kind),
        },
        "versions": _versions((*_PACKAGES, *_modules(simulator))),
    }


def compare(directory: Path, state: RunState[ConfigT, ModelT]) -> str:
    """What a person is told of how the surroundings differ from those that the run was made with; they are kept then.

    Raises ValueError if the environment is not the one that the run learned in: other spaces, bounds or limits. Of a
    run of version 0.6 nothing is known, and nothing compared.
    """
    file, now = directory / ENVIRONMENT_FILE, surroundings(state)
    if not file.exists():
        return ""
    try:
        before, now = read_json(file), json.loads(json.dumps(now))
    except DamagedCheckpoint as error:
        raise ValueError(f"{error} Remove it to go on without comparing the environment.") from error
    differ = list(_differences(before, now, "spaces"))
    if differ:
        raise ValueError(
            f"{state.config.env} is not what it was when {directory} was trained: {'; '.join(differ)[:600]}. Put it "
            "back as it was, or train a new run."
        )
    told = [*_differences(before, now, "environment"), *_differences(before, now, "versions")]
    return (
        f"Since the run was made: {'; '.join(told)}. What follows may not be what would have followed." if told else ""
    )


def keep(directory: Path, state: RunState[ConfigT, ModelT]) -> None:
    """Writes down what the run is made with from now on."""
    write_json(directory / ENVIRONMENT_FILE, surroundings(state))


def _differences(before: Json, now: dict[str, Json], part: str) -> Iterator[str]:
    known = before.get(part) if isinstance(before, dict) else None
    for name, value in now[part].items():
        if isinstance(known, dict) and name in known and known[name] != value:
            yield f"{name} was {_shown(known[name])} and is {_shown(value)}"


def _shown(value: Json) -> str:
    text = str(value)
    return text if len(text) <= _ROOM else f"{text[: _ROOM // 2]}…{text[-_ROOM // 2 :]}"


def _first(env: EnvBase) -> dict[str, Json] | None:
    """Of the first of the environment's simulators, if they are gymnasium's."""
    try:
        return next(of_each(env, _surroundings_of))
    except TypeError:
        return None


def _modules(simulator: gymnasium.Env[object, object]) -> Iterator[str]:
    """The packages that a simulator and its wrappers are of, and those that they stand on."""
    yield from (name for name in _SIMULATORS if name in sys.modules)
    layer: gymnasium.Env[object, object] | None = simulator
    while layer is not None:
        yield type(layer).__module__.partition(".")[0]
        layer = layer.env if isinstance(layer, gymnasium.Wrapper) else None


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    """Those that are installed as packages of that name."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name.replace("_", "-")] = version(name)
    return found


def _digest_of_source(kind: type) -> str:
    """Of the file that the class stands in; empty where there is none."""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""
