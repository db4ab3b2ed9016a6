"""The report's disagreement: its numbers by hand, and what it tells where nobody was."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from test_model_report import Spring, episodes, moved
from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.objectives.disagreement import LatentEnsemble, fit_ensemble
from worldloom_rl.report.agreement import rank_correlation
from worldloom_rl.report.disagreement import doubts, draw_doubts
from worldloom_rl.report.report_episodes import Episodes
from worldloom_rl.world_model import Latent, Prediction

__all__ = ["episodes"]  # the fixture
_KNOWN = 0.8  # how far from the middle a `Local` model is right, and its rows lie


class Local(Spring):
    """Right near the middle, where it was trained; the farther from there, the more wrong."""

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        right = super().predict_latent(latent, action, noise)
        beyond = (latent["deterministic"].norm(dim=-1, keepdim=True) - _KNOWN).clamp(min=0)
        return right._replace(latent={"deterministic": right.latent["deterministic"] + beyond})


def near_the_middle() -> TensorDictBase:
    """[64, 2] single steps that begin there."""
    place = torch.randn(64, 2)
    place *= _KNOWN * torch.rand(64, 1) / place.norm(dim=-1, keepdim=True)
    action = 2 * torch.rand(64, 1) - 1
    is_init = torch.tensor([[True], [False]]).expand(64, 2, 1)
    return TensorDict(
        {
            "place": torch.stack([place, moved(place, action)], 1),
            "previous_action": torch.stack([torch.zeros_like(action), action], 1),
            "is_init": is_init,
        },
        batch_size=[64, 2],
    )


def test_disagreement_and_error_are_those_of_each_step(episodes: Episodes) -> None:
    torch.manual_seed(0)
    model = Spring(fault="dynamics")
    ensemble = LatentEnsemble(model, units=8)
    pairs = doubts(model, ensemble, episodes)
    rows, place = episodes.rows, episodes.rows["place"]
    steps = [(e, t) for e, t in (episodes.valid & ~rows["is_init"].squeeze(-1)).nonzero().tolist()]
    came = torch.stack([place[e, t] for e, t in steps])
    before = torch.stack([place[e, t - 1] for e, t in steps])
    action = torch.stack([rows["previous_action"][e, t] for e, t in steps])
    foreseen = model.predict_latent({"deterministic": before}, action, model.noise).latent["deterministic"]
    unit = ((came - came.mean(0)) ** 2).mean()
    torch.testing.assert_close(pairs.truth, ((foreseen - came) ** 2).mean(-1) / unit)
    torch.testing.assert_close(pairs.predicted, ensemble(before, action).var(0).mean(-1))
    assert len(steps) > 200


def test_it_tells_where_a_model_was_never_right(episodes: Episodes) -> None:
    torch.manual_seed(0)
    model = Local()
    pairs = doubts(model, fit_ensemble(model, near_the_middle, updates=300, units=32), episodes)
    assert (pairs.truth == 0).any()
    assert rank_correlation(pairs) > 0.7
    name, caption, figure = draw_doubts(pairs, 300)
    assert name == "disagreement beside the error"
    assert f"correlation {rank_correlation(pairs):.2f} over {len(pairs.truth):,} steps" in caption
    assert len(figure.axes[0].lines[0].get_xdata()) == 10


def test_fitting_draws_rows_for_each_update_and_learns() -> None:
    model, drawn = Spring(), 0

    def sample() -> TensorDictBase:
        nonlocal drawn
        drawn += 1
        return near_the_middle()

    errors = []
    for updates in (1, 30):
        torch.manual_seed(0)
        ensemble, rows = fit_ensemble(model, sample, updates=updates), near_the_middle()
        foreseen = ensemble(rows["place"][:, 0], rows["previous_action"][:, 1])
        errors.append(float((foreseen.detach() - rows["place"][:, 1]).square().mean()))
    assert drawn == 31
    assert errors[1] < errors[0] / 2
