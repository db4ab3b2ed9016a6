"""New episodes to judge a run's model by, and what it predicts of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import Tensor
from torchrl.envs import EnvBase

from worldloom_rl.envs import episode_length
from worldloom_rl.noise import GeneratorNoise, Noise
from worldloom_rl.report.model_report import Evidence, gather_evidence
from worldloom_rl.report.report_episodes import Episodes, play_streams
from worldloom_rl.world_model import Latent, WorldModel

RANDOM_STEPS = 20  # most random actions before the policy plays on


class ValueHead(NamedTuple):
    """What a report asks a model's value head, and under which policies its values may hold."""

    value: Callable[[Latent, Noise], Tensor]  # [..., 1] of latents
    gamma: float
    own: str  # what the run's policy is called; a planner if there is another
    other: str  # and the policy that plays on after random steps
    make_other: Callable[[], TensorDictSequential] | None = None  # by default the run's policy


def _critic(model: WorldModel, task: int = 0) -> ValueHead:
    return ValueHead(model.terminal_value, model.config.discount, "the actor", "the actor")


def _q_ensemble(model: WorldModel, task: int = 0) -> ValueHead:
    """The Qs learn from actions of the policy prior, which neither a wrong reward nor wrong dynamics lead astray."""
    discount = model.config.discount
    return ValueHead(
        model.terminal_value,
        discount[task] if isinstance(discount, tuple) else discount,
        "the planner",
        "the policy prior",
        lambda: TensorDictSequential(model.encode, model.make_actor()),
    )


class MakeValueHead(Protocol):
    """What a report asks of a family's model, where it plays the task of that number."""

    def __call__(self, model: WorldModel, task: int = 0) -> ValueHead: ...


_ONLINE: Mapping[str, MakeValueHead] = {
    "dreamerv3": _critic,
    "tdmpc2": _q_ensemble,
    "tokens": _critic,
}
VALUE_HEADS = {
    **_ONLINE,
    **{f"{recipe}-{kind}": head for recipe, head in _ONLINE.items() for kind in ("offline", "finetune")},
}


def play_for_report(
    model: WorldModel,
    value_head: ValueHead,
    policy: TensorDictModuleBase,
    make_env: Callable[[int, int], EnvBase],
    *,
    episodes: int,
    steps: int,
    seed: int,
) -> Episodes:
    """New episodes to judge a model by: of a policy, of one that goes on after random actions, and of those.

    Args:
        policy: of the run, which `value_head.own` names.
        make_env: from a number of environments and a seed.
    """
    device = seed_draws(model, seed)
    other = value_head.make_other() if value_head.make_other else policy
    env = make_env(episodes, seed)
    steps = min(episode_length(env), steps)
    none = torch.zeros(episodes, dtype=torch.int64)
    first = torch.linspace(0, RANDOM_STEPS, episodes).round().long()
    streams = {value_head.own: play_streams(model, env, policy, steps=steps, random_steps=none)}
    disturbed = make_env(2 * episodes, seed + episodes)
    streams.setdefault(value_head.other, []).extend(
        play_streams(model, disturbed, other, steps=steps, random_steps=torch.cat([first, none + steps]))
    )
    planner = value_head.own if value_head.make_other else None
    return Episodes.beside_each_other(streams, model.key_map.is_init, planner).to(device)


def examine(model: WorldModel, value_head: ValueHead, played: Episodes, *, seed: int) -> Evidence:
    """What a model predicts in episodes against what came, with draws of its own."""
    seed_draws(model, seed)
    generator = torch.Generator().manual_seed(seed)
    return gather_evidence(model, value_head.value, played, gamma=value_head.gamma, generator=generator)


def seed_draws(model: WorldModel, seed: int) -> torch.device:
    """Makes the model's draws, and torch's, those of a seed. Returns the model's device."""
    device = next(model.parameters()).device
    torch.manual_seed(seed)
    model.noise = GeneratorNoise(torch.Generator(device).manual_seed(seed))
    return device
