"""Open-loop imagination against the truth: what a model foresees once it sees no more, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.nn import functional as F

from worldloom_rl.keys import as_tuple
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, Prediction, WorldModel

_CONTEXT_COLOR, _IMAGINED_COLOR = "tab:green", "tab:orange"
_CONTINUE = "probability\nto go on"
_STANDING_STILL = "latent error of foreseeing no change after the context"


@dataclass(frozen=True)
class Curve:
    """One number a row, as it was (`truth` [T]) and as the model foresaw it (`samples` [S, T]); NaN is not drawn.

    Attributes:
        reference: what `truth` is; a line of another name is dashed.
    """

    truth: Tensor
    samples: Tensor
    reference: str = "truth"


@dataclass(frozen=True)
class OpenLoop:
    """Observations of one sequence [T, …] by key, as they were and as the model saw or foresaw them, and curves.

    Attributes:
        context: rows that the model observed; it imagined the others from the actions alone.
        samples: [S, T, …] by key, S futures, each with its own draws from the context on.
        curves: by name, of the imagined rows: reward and return since the context unless the model learns without
            rewards, the probability to go on if the model predicts it, and if it decodes no observation the imagined
            latent's distance from the one observed.
    """

    context: int
    truth: Mapping[NestedKey, Tensor]
    samples: Mapping[NestedKey, Tensor]
    curves: Mapping[str, Curve]


@torch.no_grad()
def open_loop(
    model: WorldModel, rows: TensorDictBase, *, context: int, samples: int = 1, noise: Noise | None = None
) -> OpenLoop:
    """What the model makes of arrival rows [T] of one episode when it observes only the first `context` of them.

    Raises ValueError if the rows leave nothing to imagine or an episode starts within them.
    """
    steps = len(rows)
    if not 1 <= context < steps:
        raise ValueError(f"context must leave some of the {steps} rows to imagine, got {context}.")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if bool(rows[model.key_map.is_init][1:].any()):
        raise ValueError("open_loop takes rows of one episode, but an episode starts within these.")
    noise = model.noise if noise is None else noise
    keys = decoded_observation_keys(model)
    many = rows.unsqueeze(0).expand(samples, steps)
    observation, action = model.read_observation(many), model.read_previous_action(many)
    is_init = torch.zeros(samples, steps, 1, dtype=torch.bool, device=action.device)
    is_init[:, 0] = True

    def observed(count: int) -> Latent:
        seen = {key: value[:, :count] for key, value in observation.items()}
        carry = model.initial_latent((samples,))
        return model.observe_sequence(carry, action[:, :count], seen, is_init[:, :count], noise)

    latent = observed(context)
    row = {name: value[:, -1] for name, value in latent.items()}
    predictions: list[Prediction] = []
    for t in range(context, steps):
        predictions.append(model.predict_latent(row, action[:, t], noise))
        row = predictions[-1].latent
    decoded = [model.decode_latent(latent)]
    for prediction in predictions:
        decoded.append({key: value.unsqueeze(1) for key, value in model.decode_latent(prediction.latent).items()})
    found = {key: torch.cat([part[key] for part in decoded], 1) for key in keys}

    curves = {}
    if as_tuple(model.key_map.reward) in {as_tuple(key) for key in model.loss_keys}:
        reward = torch.stack([prediction.reward for prediction in predictions], 1).squeeze(-1)
        true_reward = rows[model.key_map.reward].squeeze(-1)
        curves = {
            "reward": _curve(context, true_reward[context:], reward),
            "return since\nthe context": _curve(context, true_reward[context:].cumsum(0), reward.cumsum(1)),
        }
    if decodes(model, model.key_map.continuation):
        goes_on = torch.stack([prediction.continuation for prediction in predictions], 1).squeeze(-1)
        curves[_CONTINUE] = _curve(context, 1 - rows[model.key_map.terminated][context:].squeeze(-1).float(), goes_on)
    if not keys:
        features = model.latent_features(observed(steps))
        imagined = torch.stack([model.latent_features(prediction.latent) for prediction in predictions], 1)
        # The yardstick: how far the latent moved since the context ended, the error of foreseeing that nothing changes.
        moved = (features[:, context:] - features[:, context - 1 : context]).norm(dim=-1).mean(0)
        error = _curve(context, moved, (imagined - features[:, context:]).norm(dim=-1), _STANDING_STILL)
        curves = {"latent error": error, **curves}
    return OpenLoop(context, {key: rows[key] for key in keys}, found, curves)


def decodes(model: WorldModel, key: NestedKey) -> bool:
    """Whether the model tells that entry from the latent alone."""
    return as_tuple(key) in {as_tuple(out) for out in model.decode.out_keys}


def decoded_observation_keys(model: WorldModel) -> list[NestedKey]:
    """The observation keys that the model decodes; none for a model without a decoder."""
    return [key for key in model.observation_keys if decodes(model, key)]


def _curve(context: int, truth: Tensor, samples: Tensor, reference: str = "truth") -> Curve:
    """The curve of H imagined rows with NaN for the context before them."""
    return Curve(F.pad(truth, (context, 0), value=torch.nan), F.pad(samples, (context, 0), value=torch.nan), reference)


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
    figure.suptitle(title)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, key in zip(parts[:-1], images, strict=True):
        _strip(part, ".".join(as_tuple(key)), result, key, frames)
    panels = parts[-1].subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, curve) in zip(panels, lines, strict=True):
        _line(axes, name, result.context, curve)
    panels[-1].set_xlabel("agent step of the episode")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
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
    figure.legend(handles=legend, loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(file, dpi=110)


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
    imageio.mimsave(file, frames, duration=200, loop=0)


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
    if name == _CONTINUE:
        axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel(name, fontsize=8)


def _style(reference: str) -> Literal["-", "--"]:
    return "-" if reference == "truth" else "--"


def _spread(curve: Curve) -> bool:
    """Whether the samples differ."""
    return bool((curve.samples != curve.samples[:1]).logical_and(~curve.samples.isnan()).any())
