"""Which runs several processes can do together: one that they cannot is refused, not done by each of them alone."""

from __future__ import annotations

from collections.abc import Iterator

from worldloom_rl import ranks
from worldloom_rl.training import torchrun
from worldloom_rl.training.options import CapturedRunConfig
from worldloom_rl.training.recipe import ConfigT, ModelT, Recipe, StateT


def check_together(recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT) -> None:
    """Raise ValueError, naming all that is in the way, if there are several processes and these cannot share the run.

    Args:
        config: of the run.
    """
    count = max(torchrun.processes(), ranks.count())
    if count > 1 and (reasons := list(_not_shared(recipe, config))):
        raise ValueError(
            f"{count} processes cannot share this run: {'; '.join(reasons)}. Leave that out, or start one process, "
            "without torchrun."
        )


def _not_shared(recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT) -> Iterator[str]:
    if not recipe.together:
        yield f"they do not learn together by the recipe {recipe.name!r}"
    if config.tasks:
        yield "several tasks (--tasks) are learned by one"
    if config.data:
        yield "recorded data (--data) is read by one"
    if config.actors:
        yield "actors (--actors) collect for one"
    if config.in_processes:
        yield "environments in processes (--parallel processes) were never tried among several"
    if config.device.partition(":")[0] != "cpu":
        yield f"they meet on CPUs only (by gloo; NCCL was never tried), not on {config.device!r}"
    if isinstance(config, CapturedRunConfig) and config.cuda_graphs:
        yield "CUDA graphs (--cuda-graphs) hold no talk between processes"
    if config.explore:
        yield "exploring (--explore) was never tried among several"
    if config.compile:
        yield "--compile was never tried among several"
