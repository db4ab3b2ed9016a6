"""The weighted sum of a model's own loss terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.objectives import LossModule

from worldloom_rl.keys import IS_INIT, PREVIOUS_ACTION, REWARD, TERMINATED
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import WorldModel


class WorldModelLoss(LossModule):  # type: ignore[misc]
    """Multiplies the terms of `model.compute_loss` by their weights, in the one place where that happens.

    Args:
        model: any world model.
        weights: by term; must name exactly the terms that the model computes.

    Returns, called on [B, T] arrival rows: a TensorDict with "loss_<term>" (weighted means, whose sum is the loss) and
    the posterior, not detached. Rows are read where the model's key map says; `set_keys(reward="my_reward")` tells that
    an entry stands elsewhere in them.
    Raises ValueError if the names of terms and weights differ.
    """

    @dataclass
    class _AcceptedKeys:
        """Entries of the rows that `set_keys` can find under another key; TorchRL assigns to them."""

        reward: NestedKey = REWARD
        terminated: NestedKey = TERMINATED
        is_init: NestedKey = IS_INIT
        previous_action: NestedKey = PREVIOUS_ACTION

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    model: WorldModel

    def __init__(self, model: WorldModel, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.model = model
        self.weights = dict(weights)
        self.set_keys(**self._model_keys())
        self.in_keys = list(model.loss_keys)
        self.out_keys = [f"loss_{name}" for name in self.weights]

    def forward(self, tensordict: TensorDictBase, noise: Noise | None = None) -> tuple[TensorDict, TensorDictBase]:
        terms, posterior = self.model.compute_loss(self._renamed(tensordict), noise)
        if set(terms) != set(self.weights):
            raise ValueError(
                f"The model computes the terms {sorted(terms)}, but weights are given for {sorted(self.weights)}."
            )
        losses = {f"loss_{name}": self.weights[name] * term.mean() for name, term in terms.items()}
        return TensorDict(losses, batch_size=[]), posterior

    def _model_keys(self) -> dict[str, NestedKey]:
        return {field.name: getattr(self.model.key_map, field.name) for field in dataclasses.fields(self._AcceptedKeys)}

    def _renamed(self, rows: TensorDictBase) -> TensorDictBase:
        """The rows with every entry that `set_keys` found elsewhere also where the model reads it."""
        moved = {name: key for name, key in self._model_keys().items() if getattr(self.tensor_keys, name) != key}
        if moved:
            rows = rows.copy()
            for name, key in moved.items():
                rows.set(key, rows.get(getattr(self.tensor_keys, name)))
        return rows
