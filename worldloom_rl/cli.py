"""The command line: worldloom check | train | resume | eval | imagine | report | compare | list | import."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from worldloom_rl.models.dreamerv3 import importer as dreamerv3_importer
from worldloom_rl.models.tdmpc2 import importer as tdmpc2_importer
from worldloom_rl.models.vjepa2 import VJEPA2Encoder
from worldloom_rl.models.vjepa2 import importer as vjepa2_importer
from worldloom_rl.pretrained.registry import list_world_models
from worldloom_rl.recipes import dreamerv3, jepa, run_commands, tdmpc2, tokens
from worldloom_rl.report.compare import comparison_table, draw_comparison, group_runs, read_result
from worldloom_rl.report.environment_check import check_environment
from worldloom_rl.training import loop
from worldloom_rl.training.recipe import Recipe
from worldloom_rl.training.run_directory import IMAGINATION_FILE, RunDirectory
from worldloom_rl.world_model import WorldModel

_REWARD_RECIPES = [dreamerv3.RECIPE, tdmpc2.RECIPE, tokens.RECIPE]  # learn from an environment while they collect
_RECIPES = {recipe.name: recipe for recipe in (*_REWARD_RECIPES, jepa.RECIPE)}

_Path = Annotated[Path, tyro.conf.Positional]


def check(
    env: Annotated[str, tyro.conf.Positional],
    action_repeat: int | None = None,
    pixels: bool = False,
    time_limit: int | None = None,
    steps: int = 3000,
) -> None:
    """Try an environment before training: what models read, memory, time, and problems with their remedies.

    The exit status is 0 if at least one family can be trained, else 2.

    Args:
        env: such as Pendulum-v1, module:Id or dmc:cartpole-balance.
        action_repeat: simulator steps an action is held for; by default 2 for dmc:, else 1.
        pixels: observe rendered images.
        time_limit: simulator steps of an episode; by default the environment's own.
        steps: agent steps to project the time for.
    """
    report = check_environment(
        env, _REWARD_RECIPES, action_repeat=action_repeat, pixels=pixels, time_limit=time_limit, steps=steps
    )
    print(report.text())
    if not report.trainable:
        raise SystemExit(2)


def train_dreamerv3(config: tyro.conf.OmitArgPrefixes[dreamerv3.Config]) -> None:
    """Train DreamerV3 on an environment, into a new run directory."""
    run_commands.finish_run(dreamerv3.RECIPE, dreamerv3.train(config))


def train_jepa(config: tyro.conf.OmitArgPrefixes[jepa.Config]) -> None:
    """Train a JEPA without rewards, on an environment's images or on recorded data, into a new run directory."""
    run_commands.finish_run(jepa.RECIPE, jepa.train(config))


def train_tdmpc2(config: tyro.conf.OmitArgPrefixes[tdmpc2.Config]) -> None:
    """Train TD-MPC2 on an environment, into a new run directory."""
    run_commands.finish_run(tdmpc2.RECIPE, tdmpc2.train(config))


def train_tokens(config: tyro.conf.OmitArgPrefixes[tokens.Config]) -> None:
    """Train a token world model on an environment of images, into a new run directory."""
    run_commands.finish_run(tokens.RECIPE, tokens.train(config))


def import_dreamerv3(
    source: _Path,
    output: _Path,
    settings: tyro.conf.OmitArgPrefixes[dreamerv3_importer.ImportSettings] = dreamerv3_importer.ImportSettings(),  # noqa: B008
) -> None:
    """Turn an official DreamerV3 log directory or agent.pkl into a directory for AutoWorldModel.from_pretrained."""
    _say_imported(dreamerv3_importer.import_checkpoint(source, output, settings), output)


def import_tdmpc2(
    checkpoint: _Path,
    output: _Path,
    settings: tyro.conf.OmitArgPrefixes[tdmpc2_importer.ImportSettings] = tdmpc2_importer.ImportSettings(),  # noqa: B008
) -> None:
    """Turn an official TD-MPC2 checkpoint (.pt) into a directory for AutoWorldModel.from_pretrained."""
    _say_imported(tdmpc2_importer.import_checkpoint(checkpoint, output, settings), output)


def import_vjepa2(
    checkpoint: _Path,
    output: _Path,
    settings: tyro.conf.OmitArgPrefixes[vjepa2_importer.ImportSettings] = vjepa2_importer.ImportSettings(),  # noqa: B008
) -> None:
    """Turn an official V-JEPA 2 checkpoint (.pt) into a directory: a world model or, of pre-training, an encoder."""
    model = vjepa2_importer.import_checkpoint(checkpoint, output, settings)
    if isinstance(model, VJEPA2Encoder):
        print(f"Wrote {output}: an encoder of {sum(x.numel() for x in model.encoder.parameters()):,} parameters.")
        print(f'Load it: VJEPA2Encoder.from_pretrained("{output}")')
    else:
        _say_imported(model, output)


def _say_imported(model: WorldModel, output: Path) -> None:
    print(f"Wrote {output}: {model.num_parameters():,} parameters.")
    print(f'Load it: AutoWorldModel.from_pretrained("{output}")')


def resume(run: _Path) -> None:
    """Go on from the newest checkpoint of a run."""
    recipe, opened = _opened(run)
    run_commands.finish_run(recipe, loop.resume(recipe, opened))


def evaluate(run: _Path, episodes: int = 20, seeds: tuple[int, ...] = (0,)) -> None:
    """Play whole episodes with the newest checkpoint of a run, without exploration noise.

    A JEPA that has no goals to plan to is judged by its predictions in episodes that it did not learn from.

    Args:
        run: the run directory.
        episodes: how many for each seed, planned for side by side.
        seeds: of environments and planner.
    """
    run_commands.evaluate_run(*_opened(run), episodes, seeds)


def imagine(
    run: _Path,
    context: int = 5,
    horizon: int | None = None,
    samples: int = 8,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Draw what the newest checkpoint of a run imagines against what happens in a new episode.

    Args:
        run: the run directory.
        context: steps that the model observes before it imagines.
        horizon: steps that it then imagines; by default 50, or fewer if the episode ends before.
        samples: imagined futures, drawn as a band.
        seed: of the environment, the policy and the samples.
        output: where to write the picture; by default imagination.png in the run directory.
    """
    recipe, opened = _opened(run)
    file = output or run / IMAGINATION_FILE
    run_commands.imagine_run(recipe, opened, context=context, horizon=horizon, samples=samples, seed=seed, output=file)


def report(run: _Path, episodes: int = 8, steps: int = 200, seed: int = 0) -> None:
    """Find out which part of a run's model is at fault: a page of findings and pictures from new episodes.

    Args:
        run: the run directory; the page is written to report/index.html in it.
        episodes: environments that the run's policy plays; twice as many are played with random actions.
        steps: agent steps in each of them; fewer if an episode can't last that long.
        seed: of the environments, the policy and the samples.
    """
    recipe, opened = _opened(run)
    run_commands.report_run(recipe, opened, episodes=episodes, steps=steps, seed=seed)


def compare(runs: tyro.conf.Positional[tuple[Path, ...]], output: Path = Path("compare.png")) -> None:
    """Compare finished runs on one task: a table, and learning curves and score distributions as a picture.

    Args:
        runs: run directories, or JSON files of results; those that differ only in the seed are taken together.
        output: where to write the picture.
    """
    groups = group_runs([read_result(run) for run in runs])
    Console().print(comparison_table(groups))
    draw_comparison(output, groups)
    print(f"Learning curves and score distributions: {output}")


def list_models(pattern: Annotated[str, tyro.conf.Positional] = "*") -> None:
    """Print the world models known by name, such as tdmpc2:5m."""
    print("\n".join(list_world_models(pattern)))


def _opened(path: Path) -> tuple[Recipe, RunDirectory]:
    """The recipe of a run directory, and the directory."""
    run = RunDirectory(path)
    name, _ = run.read_config()
    if name not in _RECIPES:
        raise ValueError(f"{path} is a run of the recipe {name!r}; known are {sorted(_RECIPES)}.")
    return _RECIPES[name], run


_Commands = Mapping[str, "Callable[..., None] | Mapping[str, Callable[..., None]]"]

_COMMANDS: _Commands = {
    "check": check,
    "train": {"dreamerv3": train_dreamerv3, "jepa": train_jepa, "tdmpc2": train_tdmpc2, "tokens": train_tokens},
    "resume": resume,
    "eval": evaluate,
    "imagine": imagine,
    "report": report,
    "compare": compare,
    "list": list_models,
    "import": {"dreamerv3": import_dreamerv3, "tdmpc2": import_tdmpc2, "vjepa2": import_vjepa2},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `worldloom`. A mistake in what was asked for ends with its message and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does, so that module:Id finds a module in the current directory
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # its notes on storages interrupt the live line
    try:
        _dispatch(_COMMANDS, given, "worldloom")
    except KeyboardInterrupt as stopped:
        raise SystemExit(130) from stopped
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if "WORLDLOOM_TRACEBACK" in os.environ:
            raise
        Console(stderr=True, soft_wrap=True).print(f"worldloom: {error}", markup=False, highlight=False)
        raise SystemExit(2) from error


def _dispatch(commands: _Commands, given: list[str], program: str) -> None:
    group = commands.get(given[0]) if given else None
    if isinstance(group, Mapping):
        _dispatch(group, given[1:], f"{program} {given[0]}")
        return
    if given and callable(group):
        tyro.cli(group, args=given[1:], prog=f"{program} {given[0]}")
        return
    asked_for_help = given and given[0] in ("-h", "--help")
    lines = [f"usage: {program} COMMAND …", "", *(f"  {name:8} {_summary(entry)}" for name, entry in commands.items())]
    print("\n".join([*lines, "", f"'{program} COMMAND --help' tells the rest."]))
    if given and not asked_for_help:
        raise ValueError(f"{program} has no command {given[0]!r}; it has {sorted(commands)}.")


def _summary(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return f"{' | '.join(entry)}: " + "; ".join(_summary(inner) for inner in entry.values())
    return str(entry.__doc__).splitlines()[0]
