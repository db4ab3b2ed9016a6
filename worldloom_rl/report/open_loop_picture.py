"""Open-loop imagination as a picture, and as an animation where images are observed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import imageio.v2 as imageio
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from tensordict import NestedKey
from torch import Tensor

from worldloom_rl.atomic import write_bytes
from worldloom_rl.keys import as_tuple
from worldloom_rl.report.open_loop import CONTINUE, Curve, OpenLoop
from worldloom_rl.training.learning_curve import write_picture

_CONTEXT_COLOR, _IMAGINED_COLOR = "tab:green", "tab:orange"


def draw_open_loop(file: Path, title: str, result: OpenLoop, *, frames: int = 12) -> None:
    """Write a PNG: for each image a strip truth | imagined | error, for each vector a line a number, then the curves.

    Args:
        frames: images of a strip, evenly spaced in time.
    """
    images = [key for key, value in result.truth.items() if value.dim() == 4]
    lines = [line for key in result.truth if key not in images for line in _numbers(result, key)]
    lines += result.curves.items()
    heights = [3.4] * len(images) + [1.3 * len(lines) + 0.4]
    figure = Figure(figsize=(1.0 + frames * 0.85, sum(heights) + 1.2), layout="constrained")
    figure.suptitle(title, parse_math=False)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, key in zip(parts[:-1], images, strict=True):
        _strip(part, ".".join(as_tuple(key)), result, key, frames)
    panels = parts[-1].subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, curve) in zip(panels, lines, strict=True):
        _line(axes, name, result.context, curve)
    panels[-1].set_xlabel("agent step of the episode")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(handles=_legend(result, lines, images), loc="outside lower center", ncols=2, fontsize=9)
    write_picture(file, figure, dpi=110)


def _legend(result: OpenLoop, lines: list[tuple[str, Curve]], images: list[NestedKey]) -> list[Patch | Line2D]:
    """What the colours and lines mean, of those that are drawn."""
    edge = _CONTEXT_COLOR if images else "none"
    label = "the model observes (context)"
    legend: list[Patch | Line2D] = [
        Patch(facecolor=(*to_rgb(_CONTEXT_COLOR), 0.15), edgecolor=edge, linewidth=2, label=label)
    ]
    if images:
        frame = "the model imagines (frames)"
        legend.append(Patch(facecolor="none", edgecolor=_IMAGINED_COLOR, linewidth=2, label=frame))
    how = "imagined from the actions alone" if len(lines) == len(result.curves) else "reconstructed, then imagined"
    spread = any(_spread(curve) for _, curve in lines)
    how += ", mean of the samples" if spread else ""
    legend.append(Line2D([], [], color=_IMAGINED_COLOR, linewidth=3, label=how))
    if spread:
        band = "from the lowest to the highest sample"
        legend.append(Patch(facecolor=(*to_rgb(_IMAGINED_COLOR), 0.25), label=band))
    for reference in dict.fromkeys(curve.reference for _, curve in lines):
        legend.append(Line2D([], [], color="black", linewidth=1.2, linestyle=_style(reference), label=reference))
    return legend


def animate_open_loop(file: Path, result: OpenLoop, *, scale: int = 4) -> None:
    """Write a GIF of each step's image: truth | imagined | error, framed in the colours of the PNG, five a second.

    Args:
        scale: pixels of the GIF's sides for one of the image's.
    Raises ValueError if the observation has no image.
    """
    images = [key for key, value in result.truth.items() if value.dim() == 4]
    if not images:
        raise ValueError(f"There is no image among the observations {list(result.truth)}; only images are animated.")
    truth, imagined = (values[images[0]].float().cpu() / 255 for values in (result.truth, _first(result.samples)))
    panels = torch.stack([truth, imagined, (imagined - truth).abs()], 1).clamp(0, 1)  # [T, 3, C, H, W]
    panels = panels.expand(-1, -1, 3, -1, -1) if panels.shape[2] == 1 else panels[:, :, :3]
    panels = panels.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    height, width = panels.shape[-2] + 2 * scale, panels.shape[-1] + 2 * scale
    frames: list[Any] = []  # as imageio declares it
    for t, pictures in enumerate(panels):
        color = torch.tensor(to_rgb(_CONTEXT_COLOR if t < result.context else _IMAGINED_COLOR))
        framed = color.view(3, 1, 1, 1).expand(3, 3, height, width).clone()
        framed[:, :, scale:-scale, scale:-scale] = pictures.transpose(0, 1)
        frames.append((255 * framed.permute(2, 1, 3, 0).flatten(1, 2)).round().byte().numpy())
    write_bytes(file, imageio.mimwrite("<bytes>", frames, format="gif", duration=200, loop=0))


def _first(samples: Mapping[NestedKey, Tensor]) -> dict[NestedKey, Tensor]:
    return {key: value[0] for key, value in samples.items()}


def _strip(part: SubFigure, name: str, result: OpenLoop, key: NestedKey, frames: int) -> None:
    truth, imagined = result.truth[key].float() / 255, _first(result.samples)[key].float() / 255
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
                axes.set_title(f"step {t}", fontsize=8)
            if column == 0:
                axes.set_ylabel(label)
    part.suptitle(f"{name}, the first sample; the error is the absolute difference", fontsize=9)


def _numbers(result: OpenLoop, key: NestedKey) -> list[tuple[str, Curve]]:
    """The first numbers of a vector, at most 8, each as a named curve."""
    truth, samples = result.truth[key].flatten(1), result.samples[key].flatten(2)
    name = ".".join(as_tuple(key))
    return [(f"{name}[{n}]", Curve(truth[:, n], samples[:, :, n])) for n in range(min(truth.shape[1], 8))]


def _line(axes: Axes, name: str, context: int, curve: Curve) -> None:
    truth, samples = curve.truth.float().cpu(), curve.samples.float().cpu()
    time = np.arange(len(truth))
    axes.axvspan(-0.5, context - 0.5, color=_CONTEXT_COLOR, alpha=0.15, lw=0)
    axes.plot(time, samples.mean(0), color=_IMAGINED_COLOR, linewidth=3)
    axes.plot(time, truth, color="black", linewidth=1.2, linestyle=_style(curve.reference))  # on top, so both are seen
    if _spread(curve):
        axes.fill_between(time, samples.amin(0), samples.amax(0), color=_IMAGINED_COLOR, alpha=0.25, lw=0)
    axes.set_xlim(-0.5, len(truth) - 0.5)
    low, high = axes.get_ylim()
    middle, least = (low + high) / 2, 0.025 * abs(low + high) / 2
    if high - low < 2 * least:  # else a constant reward's last digits fill the panel
        axes.set_ylim(middle - least, middle + least)
    if name == CONTINUE:
        axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel(name, fontsize=8)


def _style(reference: str) -> Literal["-", "--"]:
    return "-" if reference == "truth" else "--"


def _spread(curve: Curve) -> bool:
    """Whether the samples differ."""
    return bool((curve.samples != curve.samples[:1]).logical_and(~curve.samples.isnan()).any())
