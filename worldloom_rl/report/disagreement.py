"""Whether an ensemble's disagreement tells where a model's next latent is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure
from tensordict import TensorDict

from worldloom_rl.data import open_episodes
from worldloom_rl.data.windows import Windows
from worldloom_rl.objectives.disagreement import LatentEnsemble
from worldloom_rl.report.agreement import rank_correlation
from worldloom_rl.report.model_report import Pairs
from worldloom_rl.report.report_episodes import Episodes, at_places
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.recorded_windows import RecordedWindows
from worldloom_rl.world_model import WorldModel
from worldloom_rl.world_model.verbs import observed_latents

_BATCH, _WINDOW = 16, 16  # windows of an update, and their rows where episodes have as many
_PARTS = 10  # of the steps, by their disagreement, whose errors are averaged


def recorded_rows(
    sources: Sequence[str], tasks: Sequence[str], config: RunConfig, model: WorldModel, seed: int
) -> Callable[[], TensorDict]:
    """Draws windows [B, T] of what was recorded, where it lies. Raises what `open_episodes` and `Windows` do."""
    episodes = open_episodes(sources, tasks, config.rendered_size)
    window = min(_WINDOW, int(episodes.lengths.max()))
    windows = Windows(episodes, window, _BATCH, torch.Generator().manual_seed(seed))
    return RecordedWindows(windows, model.observation_spec, model.action_spec).sample


@torch.no_grad()
def doubts(model: WorldModel, ensemble: LatentEnsemble, episodes: Episodes) -> Pairs:
    """[M] disagreement about each step of the episodes, and the squared error of the latent that the model foresaw.

    An error of 1 is that of foreseeing the average of what came.
    """
    rows = episodes.rows
    latent, action = observed_latents(model, rows, model.noise), model.read_previous_action(rows)
    place = (episodes.valid & ~rows[model.key_map.is_init].squeeze(-1)).flatten().nonzero().squeeze(-1)
    before, taken = at_places(latent, place - 1), action.flatten(0, 1)[place]
    came = model.latent_features(at_places(latent, place)).float()
    foreseen = model.latent_features(model.predict_latent(before, taken, model.noise).latent).float()
    disagreement = ensemble.disagreement(model.latent_features(before), taken).squeeze(-1)
    unit = (came - came.mean(0)).square().mean().clamp(min=torch.finfo(came.dtype).tiny)
    return Pairs(disagreement, (foreseen - came).square().mean(-1) / unit)


def draw_doubts(pairs: Pairs, updates: int) -> tuple[str, str, Figure]:
    """Disagreement beside the error as a figure, with its name and a caption that says how to read it."""
    disagreement, error = pairs.predicted.cpu(), pairs.truth.cpu()
    order = disagreement.argsort()
    parts = [part for part in order.tensor_split(_PARTS) if len(part)]
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(disagreement, error, s=4, alpha=0.3, label="a step")
    means = [[float(values[part].mean()) for part in parts] for values in (disagreement, error)]
    axes.plot(*means, marker="o", color="C1", label=f"mean of a {_PARTS}th of them")
    axes.set(xlabel="disagreement", ylabel="error of the latent", xscale="log", yscale="log")
    axes.legend(fontsize=8)
    caption = (
        f"Ten predictors of the next latent learned in {updates} updates from rows that the model learned from. They "
        "disagree about a step where they saw few like it. Their variance stands beside the error of the latent that "
        f"the model foresaw: rank correlation {rank_correlation(pairs):.2f} over {len(error):,} steps, some of them "
        "random. Near 1, it tells where not to trust the model: as a planner's penalty, or to explore. An error of 1 "
        "is that of foreseeing the average."
    )
    return "disagreement beside the error", caption, figure
