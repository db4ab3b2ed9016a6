"""Open-loop imagination against the truth: what a model foresees once it sees no more, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from worldloom_rl.keys import as_tuple
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import WorldModel

_CONTEXT_COLOR, _IMAGINED_COLOR = "tab:green", "tab:orange"


@dataclass(frozen=True)
class OpenLoop:
    """Observations of one sequence [T, …] by key, as they were and as the model saw or foresaw them.

    Attributes:
        context: rows that the model observed; it imagined the others from the actions alone.
        samples: [S, T, …] by key, S imagined futures; the context's reconstructions are the same in all.
    """

    context: int
    truth: Mapping[NestedKey, Tensor]
    samples: Mapping[NestedKey, Tensor]


@torch.no_grad()
def open_loop(
    model: WorldModel, rows: TensorDictBase, *, context: int, samples: int = 1, noise: Noise | None = None
) -> OpenLoop:
    """What the model makes of arrival rows [T] of one episode when it observes only the first `context` of them.

    Raises ValueError if the model decodes no observations or the rows leave nothing to imagine.
    """
    keys = [key for key in model.observation_keys if as_tuple(key) in {as_tuple(out) for out in model.decode.out_keys}]
    if not keys:
        raise ValueError(f"{type(model).__name__} decodes no observations, so there is nothing to draw.")
    steps = len(rows)
    if not 1 <= context < steps:
        raise ValueError(f"context must leave some of the {steps} rows to imagine, got {context}.")
    if bool(rows[model.key_map.is_init][1:].any()):
        raise ValueError("open_loop takes rows of one episode, but an episode starts within these.")
    noise = model.noise if noise is None else noise
    many = rows.unsqueeze(0).expand(samples, steps)
    observation, action = model.read_observation(many), model.read_previous_action(many)
    first = torch.ones(samples, 1, 1, dtype=torch.bool, device=action.device)
    is_init = torch.cat([first, torch.zeros_like(first).expand(-1, context - 1, -1)], 1)
    seen = {key: value[:, :context] for key, value in observation.items()}
    latent = model.observe_sequence(model.initial_latent((samples,)), action[:, :context], seen, is_init, noise)
    decoded = [model.decode_latent(latent)]
    row = {name: value[:, -1] for name, value in latent.items()}
    for t in range(context, steps):
        row = model.predict_latent(row, action[:, t], noise).latent
        decoded.append({key: value.unsqueeze(1) for key, value in model.decode_latent(row).items()})
    found = {key: torch.cat([part[key] for part in decoded], 1) for key in keys}
    return OpenLoop(context, {key: rows[key] for key in keys}, found)


def draw_open_loop(file: Path, title: str, result: OpenLoop, *, frames: int = 12) -> None:
    """Write a PNG: for each image a strip truth | imagined | error, for each vector a line a number.

    Args:
        frames: images of a strip, evenly spaced in time.
    """
    images = [key for key, value in result.truth.items() if value.dim() == 4]
    vectors = [key for key in result.truth if key not in images]
    widths = {key: min(result.truth[key].flatten(1).shape[1], 8) for key in vectors}
    heights = [3.4] * len(images) + [1.3 * widths[key] + 0.4 for key in vectors]
    figure = Figure(figsize=(1.0 + frames * 0.85, sum(heights) + 0.9), layout="constrained")
    figure.suptitle(title)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    for part, key in zip(parts[:, 0], [*images, *vectors], strict=True):
        name = ".".join(as_tuple(key))
        if key in images:
            _strip(part, name, result, key, frames)
        else:
            _lines(part, name, result, key, widths[key])
    legend = [
        Patch(facecolor="none", edgecolor=_CONTEXT_COLOR, linewidth=2, label="the model observes (context)"),
        Patch(facecolor="none", edgecolor=_IMAGINED_COLOR, linewidth=2, label="the model imagines from actions alone"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=2)
    figure.savefig(file, dpi=110)


def _strip(part: SubFigure, name: str, result: OpenLoop, key: NestedKey, frames: int) -> None:
    truth, imagined = result.truth[key].float() / 255, result.samples[key][0].float() / 255
    chosen = np.unique(np.linspace(0, len(truth) - 1, min(frames, len(truth))).round().astype(int))
    error = (imagined - truth).abs()
    grid = part.subplots(3, len(chosen), squeeze=False)
    for line, (label, strip) in enumerate((("truth", truth), ("imagined", imagined), ("error", error))):
        for column, t in enumerate(chosen):
            axes = grid[line, column]
            picture = strip[t].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
            axes.imshow(picture[..., 0] if picture.shape[-1] != 3 else picture, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(edgecolor=_CONTEXT_COLOR if t < result.context else _IMAGINED_COLOR, linewidth=2.5)
            if line == 0:
                axes.set_title(f"row {t}", fontsize=8)
            if column == 0:
                axes.set_ylabel(label)
    part.suptitle(name, fontsize=9)


def _lines(part: SubFigure, name: str, result: OpenLoop, key: NestedKey, width: int) -> None:
    truth, samples = result.truth[key].float().flatten(1).cpu(), result.samples[key].float().flatten(2).cpu()
    time, context = np.arange(len(truth)), result.context
    for number, axes in enumerate(part.subplots(width, 1, sharex=True, squeeze=False)[:, 0]):
        axes.axvspan(-0.5, context - 0.5, color=_CONTEXT_COLOR, alpha=0.15, lw=0)
        axes.plot(time, truth[:, number], color="black", label="truth")
        axes.plot(time, samples[:, :, number].mean(0), color=_IMAGINED_COLOR, label="seen or imagined")
        low, high = samples[:, :, number].amin(0), samples[:, :, number].amax(0)
        axes.fill_between(
            time, low, high, color=_IMAGINED_COLOR, alpha=0.25, lw=0, label="from lowest to highest sample"
        )
        axes.set_ylabel(f"{name}[{number}]", fontsize=8)
        if number == 0:
            axes.legend(fontsize=7, loc="upper left", ncols=3)
        if number == width - 1:
            axes.set_xlabel("row")
