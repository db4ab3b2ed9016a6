"""How well predictions agree with what came: rank correlation, ROC area, reliability, errors by imagined step."""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor

from worldloom_rl.report.model_report import ByHorizon, Pairs


def rank_correlation(pairs: Pairs) -> float:
    """Spearman's correlation; 0 where either side never changes."""
    ranks = torch.stack([torch.as_tensor(rankdata(side.cpu().numpy())) for side in (pairs.predicted, pairs.truth)])
    centred = ranks - ranks.mean(-1, keepdim=True)
    size = centred.norm(dim=-1).prod()
    return float(centred.prod(0).sum() / size) if size > 0 else 0.0


def area_under_curve(score: Tensor, positive: Tensor) -> float:
    """Share of pairs, one positive and one not, whose positive has the higher score; equal scores count half.

    Reference: Mann and Whitney 1947; the area under the ROC curve.
    """
    ranks = torch.as_tensor(rankdata(score.cpu().numpy()))
    wins = ranks[positive.cpu()].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / (positive.sum() * (~positive).sum()))


def reliability(goes_on: Pairs, bins: int = 10) -> list[tuple[float, float, int]]:
    """Mean probability to go on, share that went on and number of rows, for each of equal bins that holds a row."""
    place = (goes_on.predicted * bins).long().clamp(max=bins - 1)
    rows = [(goes_on.predicted[place == b], goes_on.truth[place == b]) for b in range(bins)]
    return [(float(p.mean()), float(t.mean()), len(p)) for p, t in rows if len(p)]


def reach(imagined: ByHorizon) -> int:
    """The imagined steps, from the first on, whose error is below those of no change and of the average."""
    error, unchanged = by_step(imagined.error, imagined.alive), by_step(imagined.unchanged, imagined.alive)
    return int((error < unchanged.clamp(max=1.0)).long().cumprod(0).sum())


def by_step(error: Tensor, alive: Tensor) -> Tensor:
    """[H] mean over the rows that were reached; NaN where none was."""
    return error.masked_fill(~alive, torch.nan).nanmean(0).cpu()


def imagined_returns(imagined: ByHorizon, gamma: float) -> tuple[Tensor, Tensor]:
    """[N, H] discounted returns of the first k steps, imagined and real; NaN beyond the episode's end."""
    fade = gamma ** torch.arange(imagined.alive.shape[1], dtype=torch.float64)
    gone = ~imagined.alive
    imagined_return, real = (
        (reward.cpu().double() * fade).cumsum(-1).masked_fill(gone.cpu(), torch.nan)
        for reward in (imagined.reward, imagined.true_reward)
    )
    return imagined_return, real


def mean_error(error: Tensor, alive: Tensor, steps: int) -> Tensor:
    """Mean over the first steps of the rows that were reached."""
    return error[:, :steps][alive[:, :steps]].mean()
