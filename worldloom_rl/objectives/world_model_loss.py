"""The weighted sum of a model's own loss terms."""

from __future__ import annotations

from collections.abc import Mapping

from tensordict import TensorDict, TensorDictBase
from torchrl.objectives import LossModule

from worldloom_rl.noise import Noise
from worldloom_rl.world_model import WorldModel


class WorldModelLoss(LossModule):  # type: ignore[misc]
    """Multiplies the terms of `model.compute_loss` by their weights, in the one place where that happens.

    Args:
        model: any world model.
        weights: by term; must name exactly the terms that the model computes.

    Returns, called on [B, T] arrival rows: a TensorDict with "loss_<term>" (weighted means, whose sum is the loss) and
    the posterior, not detached.
    Raises ValueError if the names of terms and weights differ.
    """

    model: WorldModel

    def __init__(self, model: WorldModel, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.model = model
        self.weights = dict(weights)
        self.in_keys = [*model.observation_keys, *model.previous_action_keys, model.key_map.reward]
        self.out_keys = [f"loss_{name}" for name in self.weights]

    def forward(self, tensordict: TensorDictBase, noise: Noise | None = None) -> tuple[TensorDict, TensorDictBase]:
        terms, posterior = self.model.compute_loss(tensordict, noise)
        if set(terms) != set(self.weights):
            raise ValueError(
                f"The model computes the terms {sorted(terms)}, but weights are given for {sorted(self.weights)}."
            )
        losses = {f"loss_{name}": self.weights[name] * term.mean() for name, term in terms.items()}
        return TensorDict(losses, batch_size=[]), posterior
