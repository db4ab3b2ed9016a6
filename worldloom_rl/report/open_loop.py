"""Open-loop imagination against the truth: what a model foresees once it sees no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.nn import functional as F

from worldloom_rl.keys import as_tuple
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, Prediction, WorldModel

CONTINUE = "probability\nto go on"
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

    curves = _predicted_curves(model, rows, context, predictions)
    if not keys:
        curves = {"latent error": _latent_error(model, context, observed(steps), predictions), **curves}
    return OpenLoop(context, {key: rows[key] for key in keys}, found, curves)


def _predicted_curves(
    model: WorldModel, rows: TensorDictBase, context: int, predictions: list[Prediction]
) -> dict[str, Curve]:
    """Reward, return and the probability to go on, as far as the model predicts them."""
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
        curves[CONTINUE] = _curve(context, 1 - rows[model.key_map.terminated][context:].squeeze(-1).float(), goes_on)
    return curves


def _latent_error(model: WorldModel, context: int, observed: Latent, predictions: list[Prediction]) -> Curve:
    """How far the imagined latents are from those observed, beside how far those moved since the context ended."""
    features = model.latent_features(observed)
    imagined = torch.stack([model.latent_features(prediction.latent) for prediction in predictions], 1)
    # The yardstick: how far the latent moved since the context ended, the error of foreseeing that nothing changes.
    moved = (features[:, context:] - features[:, context - 1 : context]).norm(dim=-1).mean(0)
    return _curve(context, moved, (imagined - features[:, context:]).norm(dim=-1), _STANDING_STILL)


def decodes(model: WorldModel, key: NestedKey) -> bool:
    """Whether the model tells that entry from the latent alone."""
    return as_tuple(key) in {as_tuple(out) for out in model.decode.out_keys}


def decoded_observation_keys(model: WorldModel) -> list[NestedKey]:
    """The observation keys that the model decodes; none for a model without a decoder."""
    return [key for key in model.observation_keys if decodes(model, key)]


def _curve(context: int, truth: Tensor, samples: Tensor, reference: str = "truth") -> Curve:
    """The curve of H imagined rows with NaN for the context before them."""
    return Curve(F.pad(truth, (context, 0), value=torch.nan), F.pad(samples, (context, 0), value=torch.nan), reference)
