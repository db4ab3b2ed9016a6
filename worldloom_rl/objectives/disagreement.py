"""Where a world model has seen little: predictors of its next latent disagree there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import LossModule

from worldloom_rl import ranks
from worldloom_rl.config import did_you_mean
from worldloom_rl.functional.precision import at_least_float32
from worldloom_rl.nn.ensemble import EnsembleLinear, EnsembleMLP
from worldloom_rl.nn.initialise import truncated_normal_
from worldloom_rl.world_model import Latent, WorldModel
from worldloom_rl.world_model.verbs import observed_latents

_UNIT_RATE = 0.1  # share of a batch's mean disagreement that enters the running one


class LatentEnsemble(nn.Module):
    """M independent predictions [M, ..., T] of the latent after a step, from features [..., F] and a flat action.

    They agree where there was data, and elsewhere they do not: `disagreement` is a reward for going there, or with a
    minus a penalty in planning.

    Args:
        model: any world model; its sizes are all that is kept.
        leaf: of the latent, which is predicted, such as "stochastic"; by default the features that heads read.
        members: M, which differ by their first weights.
        units, layers: of each member, hidden.

    Attributes:
        unit: [] running mean of the disagreement on the rows learned from, which `reward` is told in; 0 before any.
    Reference: Sekar et al. 2020 (arXiv:2005.05960), Plan2Explore, whose reward has no unit of its own.
    """

    unit: Tensor

    def __init__(
        self, model: WorldModel, *, leaf: str | None = None, members: int = 10, units: int = 256, layers: int = 2
    ) -> None:
        super().__init__()
        if members < 2:
            raise ValueError(f"members must be at least 2, got {members}: one has nobody to disagree with.")
        self.leaf = leaf
        self._dimensions = _dimensions(model, leaf)
        initial = model.initial_latent()
        width = model.latent_features(initial).shape[-1] + model.action_space.width
        self.members = EnsembleMLP(members, width, (units,) * layers, self.target(model, initial).shape[-1])
        for layer in self.members.layers:
            assert isinstance(layer, EnsembleLinear)
            truncated_normal_(layer.weight, layer.weight.shape[-1])
        self.register_buffer("unit", torch.zeros(()))

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        return at_least_float32(self.members(torch.cat([features, action], -1).to(self.unit.dtype)))

    def target(self, model: WorldModel, latent: Latent) -> Tensor:
        """[..., T] what is predicted, of latents [..., …]."""
        if self.leaf is None:
            return model.latent_features(latent)
        value = latent[self.leaf]
        return value.reshape(*value.shape[: value.dim() - self._dimensions], -1)

    def disagreement(self, features: Tensor, action: Tensor) -> Tensor:
        """[..., 1] the variance over the members (by M − 1), its mean over what they predict."""
        return spread(self(features, action))

    @torch.no_grad()
    def reward(self, features: Tensor, action: Tensor) -> Tensor:
        """[..., 1] of a step from features [..., F] by a flat action [..., A]: what its disagreement is worth."""
        return self.worth(self.disagreement(features, action))

    def worth(self, disagreement: Tensor) -> Tensor:
        """The same told in the running mean, less one: what is known as well as most is worth nothing.

        Rewards that are all above zero would make each action look better than a critic expects that does not know them
        yet, and the actor would be sure of whatever it happened to do.
        """
        return disagreement / self.unit.clamp(min=torch.finfo(self.unit.dtype).tiny) - 1


def spread(predicted: Tensor) -> Tensor:
    """[..., 1] mean variance of predictions [M, ..., T] over their members."""
    return predicted.var(0).mean(-1, keepdim=True)


class DisagreementLoss(LossModule):  # type: ignore[misc]
    """ "loss_disagreement", the members' mean squared error, of latents [B, T] and rows; the model learns nothing.

    Beside it "disagreement", the mean on these rows, which in training mode moves the ensemble's unit first, and
    "reward" [B, T, 1], of arriving at each row; it is 0 at the first row of the window, and of an episode.

    Args:
        model: that the latents are of.
        ensemble: of that model.
    """

    model: WorldModel
    ensemble: LatentEnsemble

    def __init__(self, model: WorldModel, ensemble: LatentEnsemble) -> None:
        super().__init__()
        self.model = model
        self.ensemble = ensemble
        self.in_keys = list(model.latent_keys)
        self.out_keys = ["loss_disagreement"]

    def forward(self, posterior: TensorDictBase, rows: TensorDictBase) -> TensorDict:
        model, ensemble = self.model, self.ensemble
        latent = {name: value.detach() for name, value in model.read_latent(posterior).items()}
        features = model.latent_features(latent)
        predicted = ensemble(features[:, :-1], model.read_previous_action(rows)[:, 1:])
        target = ensemble.target(model, latent)[:, 1:]
        inside = (~rows[model.key_map.is_init][:, 1:]).to(predicted.dtype)  # [B, T − 1, 1] steps of an episode
        count = inside.sum().clamp(min=1)
        error = (predicted - target).square().mean((0, -1)).unsqueeze(-1)
        with torch.no_grad():
            variance = spread(predicted) * inside
            mean = ranks.mean(variance.sum() / count)
            if self.training:
                ensemble.unit.copy_(torch.where(ensemble.unit > 0, ensemble.unit.lerp(mean, _UNIT_RATE), mean))
            reward = ensemble.worth(variance) * inside
        found = {
            "loss_disagreement": (error * inside).sum() / count,
            "disagreement": mean,
            "reward": torch.cat([torch.zeros_like(reward[:, :1]), reward], 1),
        }
        return TensorDict(found, batch_size=[])


def fit_ensemble(
    model: WorldModel,
    sample: Callable[[], TensorDictBase],
    *,
    updates: int,
    units: int = 64,
    learning_rate: float = 3e-3,
) -> LatentEnsemble:
    """Predictors of the model's next latent, learned from rows [B, T] such as the model learned from."""
    device = model.action_space.center.device
    ensemble = LatentEnsemble(model, units=units).to(device)
    loss, optimizer = DisagreementLoss(model, ensemble), torch.optim.Adam(ensemble.parameters(), learning_rate)
    for _ in range(updates):
        rows = sample().to(device)
        with torch.no_grad():
            posterior = model.write_latent(rows.empty(), observed_latents(model, rows, model.noise))
        loss(posterior, rows)["loss_disagreement"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return ensemble


def weighed_disagreement(
    model: WorldModel, ensemble: LatentEnsemble, weight: float
) -> Callable[[Latent, Tensor], Tensor]:
    """A planner's `bonus`: so many times the disagreement about a step; a negative weight shuns what is unknown."""
    return partial(_weighed, model, ensemble, weight)


def _weighed(model: WorldModel, ensemble: LatentEnsemble, weight: float, latent: Latent, action: Tensor) -> Tensor:
    return weight * ensemble.disagreement(model.latent_features(latent), action)


def _dimensions(model: WorldModel, leaf: str | None) -> int:
    """Of that leaf of the latent. Raises ValueError for one that there is not, or that holds no real numbers."""
    if leaf is None:
        return 1
    known = list(model.latent_spec.keys())
    if leaf not in known:
        raise ValueError(f"The latent of {type(model).__name__} has no leaf {leaf!r}.{did_you_mean(leaf, known)}")
    spec = model.latent_spec[leaf]
    if not spec.dtype.is_floating_point:
        raise ValueError(f"leaf {leaf!r} holds whole numbers, which no variance is of; take another, or none.")
    return len(spec.shape)
