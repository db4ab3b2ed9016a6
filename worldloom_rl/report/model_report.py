"""What a world model predicts against what came: the numbers that a report judges its parts by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.report.open_loop import decoded_observation_keys, decodes
from worldloom_rl.report.report_episodes import Episodes, at_places
from worldloom_rl.world_model import Latent, Prediction, WorldModel
from worldloom_rl.world_model.verbs import observed_latents

_CHUNK = 256  # rows decoded at once
_FADED = 0.1  # realised values leave out what γⁿ makes smaller than this


@dataclass(frozen=True)
class Pairs:
    """What was predicted [M] and what came [M], row by row."""

    predicted: Tensor
    truth: Tensor


@dataclass(frozen=True)
class ByHorizon:
    """Imagination k = 1 … H steps ahead of N observed rows, along the actions that were taken.

    Attributes:
        alive: [N, H] whether the real episode came to that row; the others count nowhere.
        error: [N, H] squared error of what is observed, 1 being that of foreseeing the average every time.
        unchanged: [N, H] the squared error of foreseeing that nothing changes after the start.
        seen: [N] squared error at the start itself, which the model observed; 0 for a model without a decoder.
        latent_error: by leaf, [N, H] squared error of the latent against that observed then, in the same unit: 1 for
            its average, 2 for that of any other row.
        reward, true_reward: [N, H] of arriving.
    """

    alive: Tensor
    error: Tensor
    unchanged: Tensor
    seen: Tensor
    latent_error: dict[str, Tensor]
    reward: Tensor
    true_reward: Tensor


@dataclass(frozen=True)
class Evidence:
    """What a report is made of. The heads are asked at observed latents, so that wrong dynamics do not spoil them.

    Rewards and ends are those that no planner came to, whose every part leads it astray if one is wrong.

    Attributes:
        target: what is compared by horizon: "observation", or "latent" for a model without a decoder.
        goes_on: probability to go on, γ apart, against whether the episode did, by the latents that tell it: those
            observed, or foreseen one step ahead, which some families learn it from. Empty if the model tells of none.
        value: what the value head expects of the next `value_steps` steps against their discounted rewards, by policy.
        gamma: γ.
        planner: the policy that asks the model's parts what to do, if one does.
    """

    target: str
    imagined: ByHorizon
    reward: Pairs
    goes_on: dict[str, Pairs]
    value: dict[str, Pairs]
    value_steps: int
    gamma: float
    planner: str | None


@torch.no_grad()
def gather_evidence(
    model: WorldModel,
    value: Callable[[Latent, Noise], Tensor],
    episodes: Episodes,
    *,
    gamma: float,
    horizon: int = 15,
    starts: int = 512,
    generator: torch.Generator | None = None,
) -> Evidence:
    """The model's predictions for episodes against what came.

    Args:
        value: [..., 1] of latents, expected from there on under one of `episodes.policies`.
        starts: N at most, observed rows from which the model imagines.
        generator: of the choice of starts.
    """
    names, rows, noise = model.key_map, episodes.rows, model.noise
    is_init, action = rows[names.is_init], model.read_previous_action(rows)
    latent = observed_latents(model, rows, noise)
    arrived = episodes.valid & ~is_init.squeeze(-1)
    if episodes.planner >= 0:
        arrived &= episodes.policy != episodes.planner
    terminated = rows[names.terminated].squeeze(-1)

    place = arrived.reshape(-1).nonzero().squeeze(-1)
    after, before = at_places(latent, place), at_places(latent, place - 1)
    foreseen = model.predict_latent(before, action.flatten(0, 1)[place], noise)
    steps = _value_steps(gamma, int(is_init.shape[1]))
    values = _in_chunks(lambda part: value(part, noise), _flat(latent)).reshape(terminated.shape)
    return Evidence(
        target="observation" if decoded_observation_keys(model) else "latent",
        imagined=_imagine(model, episodes, latent, horizon, starts, generator),
        reward=Pairs(_rewards(model, foreseen, after).squeeze(-1), rows[names.reward][arrived].squeeze(-1)),
        goes_on=_continuations(model, foreseen, after, (~terminated[arrived]).float(), gamma),
        value={
            name: value_pairs(
                values,
                rows[names.reward].squeeze(-1),
                is_init.squeeze(-1),
                terminated,
                episodes.policy == number,
                gamma,
                steps,
            )
            for number, name in enumerate(episodes.policies)
        },
        value_steps=steps,
        gamma=gamma,
        planner=episodes.policies[episodes.planner] if episodes.planner >= 0 else None,
    )


def _rewards(model: WorldModel, foreseen: Prediction, after: Latent) -> Tensor:
    """[M, 1] of arriving, told from observed latents by a model that can, else with the step that led there."""
    key = model.key_map.reward
    return _in_chunks(lambda part: model.decode_latent(part)[key], after) if decodes(model, key) else foreseen.reward


def _continuations(
    model: WorldModel, foreseen: Prediction, after: Latent, went_on: Tensor, gamma: float
) -> dict[str, Pairs]:
    """`Evidence.goes_on`, of M steps that went on [M] or not."""
    if not decodes(model, model.key_map.continuation):
        return {}
    told = {
        "observed latents": (_in_chunks(model.continuation, after), after),
        "latents foreseen one step ahead": (foreseen.continuation, foreseen.latent),
    }
    pairs = {}
    for name, (continuation, latent) in told.items():
        discount = model.discount(latent)
        if gamma > 0:
            continuation = (continuation * discount / gamma).clamp(max=1.0)
        elif bool((discount > 0).any()):  # a head that has learned γ = 0 too says the same of every step
            return {}
        pairs[name] = Pairs(continuation.squeeze(-1), went_on)
    return pairs


def value_pairs(
    value: Tensor, reward: Tensor, is_init: Tensor, terminated: Tensor, on_policy: Tensor, gamma: float, steps: int
) -> Pairs:
    """vₜ − γⁿ vₜ₊ₙ, what a value head expects of n steps, against Σ γᵏ⁻¹ rₜ₊ₖ over k = 1 … n.

    Of rows [E, L] those count from which n steps of the policy are known, or fewer up to a terminal state, where
    nothing is expected any more.
    """
    alive = _alive(is_init, steps)
    ended = (alive & _ahead(terminated, steps, False)).any(-1)
    known = alive[..., 0] & (alive[..., -1] | ended) & (_ahead(on_policy, steps, False) | ~alive).all(-1)
    fade = gamma ** torch.arange(steps, dtype=reward.dtype, device=reward.device)
    came = (_ahead(reward, steps, 0.0) * alive * fade).sum(-1)
    later = _ahead(value, steps, 0.0)[..., -1] * (~ended)
    return Pairs((value - gamma**steps * later)[known], came[known])


def _value_steps(gamma: float, longest: int) -> int:
    """n, so many that little is left of what follows, but at most half of the rows."""
    if gamma <= _FADED:
        return 1
    fades = math.ceil(math.log(_FADED) / math.log(gamma)) if gamma < 1 else longest
    return max(1, min(fades, longest // 2))


def _imagine(
    model: WorldModel, episodes: Episodes, latent: Latent, horizon: int, starts: int, generator: torch.Generator | None
) -> ByHorizon:
    names, rows = model.key_map, episodes.rows.flatten(0, 1)
    alive = _alive(episodes.rows[names.is_init].squeeze(-1), horizon).flatten(0, 1)
    possible = alive[:, 0].nonzero().squeeze(-1)
    place = possible[torch.randperm(len(possible), generator=generator)[:starts].to(possible.device)]
    alive, action, flat = alive[place], model.read_previous_action(rows), _flat(latent)
    keys = decoded_observation_keys(model)

    def observed(index: Tensor) -> Tensor:
        return _vector(rows[index], keys) if keys else model.latent_features(at_places(latent, index))

    def foreseen(row: Latent) -> Tensor:
        return (
            _in_chunks(lambda part: _vector(model.decode_latent(part), keys), row)
            if keys
            else model.latent_features(row)
        )

    start, row = observed(place), {name: leaf[place] for name, leaf in flat.items()}
    weight = _weight(start, rows, keys)
    seen = ((foreseen(row) - start).square() * weight).sum(-1)
    sizes = {name: _row_variance(leaf[place]) for name, leaf in flat.items() if leaf.is_floating_point()}
    error, unchanged, reward, true_reward = [], [], [], []
    latent_error: dict[str, list[Tensor]] = {name: [] for name in sizes}
    for k in range(1, horizon + 1):
        index = (place + k).clamp(max=len(rows) - 1)
        prediction = model.predict_latent(row, action[index], model.noise)
        row, truth = prediction.latent, observed(index)
        error.append(((foreseen(row) - truth).square() * weight).sum(-1))
        unchanged.append(((start - truth).square() * weight).sum(-1))
        for name, size in sizes.items():
            latent_error[name].append((row[name] - flat[name][index]).flatten(1).square().sum(-1) / size)
        reward.append(prediction.reward.squeeze(-1))
        true_reward.append(rows[names.reward][index].squeeze(-1))
    return ByHorizon(
        alive=alive,
        error=torch.stack(error, -1),
        unchanged=torch.stack(unchanged, -1),
        seen=seen,
        latent_error={name: torch.stack(parts, -1) for name, parts in latent_error.items()},
        reward=torch.stack(reward, -1),
        true_reward=torch.stack(true_reward, -1),
    )


def _vector(row: TensorDictBase | dict[NestedKey, Tensor], keys: list[NestedKey]) -> Tensor:
    """[N, P] the observations of N rows as plain numbers."""
    return torch.cat([row[key].reshape(len(row[key]), -1).float() for key in keys], -1)


def _weight(sample: Tensor, rows: TensorDictBase, keys: list[NestedKey]) -> Tensor:
    """[P] that make the squared error of the average sum to 1.

    Numbers of a vector weigh the same whatever their scale; in an image, as in a latent, a number that varies more
    weighs more.
    """
    variance = sample.var(0, correction=0)
    sizes = [rows[key][0].numel() for key in keys] or [len(variance)]
    together = [rows[key].dim() > 2 for key in keys] or [True]
    parts = []
    for part, pooled in zip(torch.split(variance, sizes), together, strict=True):
        varies = part > 1e-8 * part.amax().clamp(min=1e-8)
        one = (
            torch.full_like(part, float(part.sum())).reciprocal()
            if pooled
            else varies / part.clamp(min=1e-12) / varies.sum()
        )
        parts.append(one / len(sizes))
    return torch.cat(parts)


def _row_variance(sample: Tensor) -> Tensor:
    """The variance of rows [N, …], summed over their numbers."""
    return sample.flatten(1).var(0, correction=0).sum().clamp(min=1e-12)


def _ahead(x: Tensor, steps: int, beyond: float | bool) -> Tensor:
    """[E, L, n] the next n entries after each of x [E, L]."""
    return F.pad(x, (0, steps), value=beyond).unfold(1, steps, 1)[:, 1:]


def _alive(is_init: Tensor, steps: int) -> Tensor:
    """[E, L, n] whether the k-th row after each is of the same episode."""
    return (~_ahead(is_init, steps, True)).long().cumprod(-1).bool()


def _flat(latent: Latent) -> Latent:
    return {name: leaf.flatten(0, 1) for name, leaf in latent.items()}


def _in_chunks(function: Callable[[Latent], Tensor], latent: Latent) -> Tensor:
    """The function of latents [M, …], not all at once: images take memory."""
    parts = zip(*(torch.split(leaf, _CHUNK) for leaf in latent.values()), strict=True)
    return torch.cat([function(dict(zip(latent, part, strict=True))) for part in parts])
