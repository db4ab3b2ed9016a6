"""`worldloom sweep`: many runs of one family, over environments, presets and seeds, as tasks of Ray."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import tyro

from worldloom_rl.commands.ranges import ConfigT, Options, Unchecked, checked
from worldloom_rl.extras import require_installed
from worldloom_rl.recipes.options import DreamerV3RunConfig, JEPARunConfig, TDMPC2RunConfig, TokensRunConfig
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.ray_tasks import prepare

_LONGEST_TASK = 80  # characters in the name of a run's directory


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Which runs, where, and with what."""

    directory: Path  # of the runs, a directory each; called again, what is missing in it is made
    envs: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--env"])] = ()  # environments, each learned by itself
    presets: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--preset"])] = ("tiny",)  # see `worldloom list`
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0, 1, 2)  # of each environment and preset
    address: str | None = None  # of a running Ray, "auto" to find it; by default one is started, for this machine alone
    cpus: float = 1.0  # that a run takes of its machine, which says how many run side by side
    gpus: float = 0.0  # likewise; 0.25 lets four runs share one


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Swept(Unchecked):
    """What a sweep gives each run itself is no option of all."""

    env: Annotated[str, tyro.conf.Suppress, tyro.conf.Fixed] = ""
    preset: Annotated[str, tyro.conf.Suppress, tyro.conf.Fixed] = "tiny"
    seed: Annotated[int, tyro.conf.Suppress, tyro.conf.Fixed] = 0
    run_directory: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SweptAlone(_Swept):
    """A run of a sweep collects by itself: it runs inside Ray already."""

    actors: Annotated[int, tyro.conf.Suppress, tyro.conf.Fixed] = 0
    ray: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    actor_steps: Annotated[int, tyro.conf.Suppress, tyro.conf.Fixed] = 8
    actor_updates: Annotated[int, tyro.conf.Suppress, tyro.conf.Fixed] = 10
    actor_patience: Annotated[float, tyro.conf.Suppress, tyro.conf.Fixed] = 300.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SweptDreamerV3(_SweptAlone, DreamerV3RunConfig):
    __doc__ = DreamerV3RunConfig.__doc__


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SweptJEPA(_Swept, JEPARunConfig):
    __doc__ = JEPARunConfig.__doc__


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SweptTDMPC2(_SweptAlone, TDMPC2RunConfig):
    __doc__ = TDMPC2RunConfig.__doc__


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SweptTokens(_Swept, TokensRunConfig):
    __doc__ = TokensRunConfig.__doc__


_Options = tyro.conf.OmitArgPrefixes[SweepOptions]


def sweep_dreamerv3(config: Options[_SweptDreamerV3], sweep: _Options) -> None:
    """Train DreamerV3 over environments, presets and seeds; what was cut off goes on."""
    _sweep("dreamerv3", runs_of("dreamerv3", DreamerV3RunConfig, config, sweep), sweep)


def sweep_jepa(config: Options[_SweptJEPA], sweep: _Options) -> None:
    """Train JEPAs over environments, presets and seeds; what was cut off goes on."""
    _sweep("jepa", runs_of("jepa", JEPARunConfig, config, sweep), sweep)


def sweep_tdmpc2(config: Options[_SweptTDMPC2], sweep: _Options) -> None:
    """Train TD-MPC2 over environments, presets and seeds; what was cut off goes on."""
    _sweep("tdmpc2", runs_of("tdmpc2", TDMPC2RunConfig, config, sweep), sweep)


def sweep_tokens(config: Options[_SweptTokens], sweep: _Options) -> None:
    """Train token world models over environments, presets and seeds; what was cut off goes on."""
    _sweep("tokens", runs_of("tokens", TokensRunConfig, config, sweep), sweep)


# ------------------------------------------------------------------ which runs


def runs_of(family: str, kind: type[ConfigT], told: ConfigT, sweep: SweepOptions) -> dict[str, ConfigT]:
    """The configuration of each run, by the name of its directory. Raises ValueError if two would have the same."""
    needs_env = next(field for field in dataclasses.fields(kind) if field.name == "env").default is dataclasses.MISSING
    if needs_env and not sweep.envs:
        raise ValueError("A sweep needs environments: --envs Pendulum-v1 dmc:cup-catch, or one.")
    for option, values in (("envs", sweep.envs), ("presets", sweep.presets), ("seeds", sweep.seeds)):
        if len(set(values)) < len(values):
            raise ValueError(f"--{option} must name each only once, got {list(values)}.")
    runs: dict[str, ConfigT] = {}
    for env, preset, seed in itertools.product(sweep.envs or ("",), sweep.presets, sweep.seeds):
        config = checked(kind, dataclasses.replace(told, env=env, preset=preset, seed=seed))
        task = config.task.replace(":", "-").replace("/", "-").strip("-.")[:_LONGEST_TASK]
        name = f"{family}-{task}-{preset}-seed{seed}"
        if name in runs:
            raise ValueError(f"{config.task} and {runs[name].task} would both be {name} in {sweep.directory}.")
        runs[name] = dataclasses.replace(config, run_directory=str(sweep.directory.absolute() / name))
    return runs


def _check_machine(runs: Mapping[str, RunConfig], sweep: SweepOptions) -> None:
    """Raises ValueError where runs could not find what they were told to use."""
    if not runs:
        raise ValueError("A sweep needs one preset and one seed at least.")
    for option, value, least in (("cpus", sweep.cpus, 0.01), ("gpus", sweep.gpus, 0.0)):
        if not least <= value <= 1024:
            raise ValueError(f"--{option} must be a number in [{least:g}, 1024], got {value}.")
    device = next(iter(runs.values())).device
    if device.startswith("cuda") and not sweep.gpus:
        raise ValueError(f"--device {device} needs a share of a GPU for each run: --gpus 1, or 0.25 for four on one.")
    if device.startswith("cuda:"):
        raise ValueError(f"A run sees only the GPU that it was given: say --device cuda instead of {device}.")
    if "" not in sys.path:  # the command line found that this directory is a run's; Ray would import from it
        raise ValueError("This directory belongs to a run, which may be somebody else's: start a sweep elsewhere.")


def _sweep(family: str, runs: Mapping[str, RunConfig], sweep: SweepOptions) -> None:
    _check_machine(runs, sweep)
    require_installed("ray", extra="ray", why="Sweeps run on Ray")
    prepare(sweep.address)
    from worldloom_rl.commands.sweep_work import work_through

    work_through(family, runs, sweep.directory, address=sweep.address, cpus=sweep.cpus, gpus=sweep.gpus)
