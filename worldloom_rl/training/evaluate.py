"""Evaluation: one whole episode in each of several environments, planned for side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import RandomPolicy

from worldloom_rl.envs.agent_steps import AgentSteps
from worldloom_rl.envs.real import simulators
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.training.options import RunConfig
from worldloom_rl.world_model import WorldModel


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths (agent steps) of whole episodes, played after `agent_steps` of training.

    Attributes:
        successes: whether each succeeded, where the environment's `info` tells; else empty.
        updates: gradient updates made before.
        statistics: numbers by name, for people and logs; the only ones where no episode was played.
    """

    agent_steps: int
    returns: list[float]
    lengths: list[int]
    successes: list[bool] = field(default_factory=list)
    updates: int = 0
    statistics: dict[str, float] = field(default_factory=dict)

    @property
    def mean_return(self) -> float:
        """Mean over the episodes."""
        return sum(self.returns) / len(self.returns)

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded. Raises ZeroDivisionError if the environment tells of none."""
        return sum(self.successes) / len(self.successes)

    def __str__(self) -> str:
        parts = [f"return {self.mean_return:.1f}"] if self.returns else []
        parts += [f"success rate {self.success_rate:.2f}"] if self.successes else []
        parts += [f"{name} {value:.3g}" for name, value in self.statistics.items()]
        return ", ".join(parts) + (f", {len(self.returns)} episodes" if self.returns else "")


def with_primers(env: EnvBase, policy: TensorDictModuleBase) -> EnvBase:
    """The environment with a place for whatever the policy carries, as collectors make it by themselves."""
    for module in policy.modules():
        if hasattr(module, "make_tensordict_primer"):
            env = env.append_transform(module.make_tensordict_primer())
    return env


def play(
    config: RunConfig,
    model: WorldModel,
    policy: TensorDictModuleBase,
    episodes: int,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Episodes of a model's policy in environments of their own, played side by side, with draws of their own.

    Args:
        check: called at every step; what it raises ends the evaluation.
    """
    env = with_primers(config.make_env(episodes, seed), policy)
    kept, model.noise = model.noise, GeneratorNoise(torch.Generator(config.device).manual_seed(seed))
    try:
        with torch.random.fork_rng():  # seeding an environment seeds torch too
            return evaluate(env, policy, 0, seed, check)
    finally:
        model.noise = kept
        env.close()


@torch.no_grad()
def evaluate(
    env: EnvBase,
    policy: TensorDictModuleBase | RandomPolicy,
    agent_steps: int,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """One episode in each environment of the batch, under ExplorationType.DETERMINISTIC.

    Args:
        env: batch [] or [E], see `with_primers`; successes are known of environments of `make_env` in this process.
        seed: of the environments.
        check: called at every step; what it raises ends the evaluation.
    """
    weights = policy.parameters() if isinstance(policy, nn.Module) else iter(())
    home = env.device or torch.device("cpu")  # an environment that names no device computes on the CPU
    device = next((weight.device for weight in weights), home)
    env.set_seed(seed)
    td = env.reset()
    running = torch.ones(max(1, env.batch_size.numel()), dtype=torch.bool)
    returns = torch.zeros(len(running), dtype=torch.float64)
    lengths = torch.zeros(len(running), dtype=torch.int64)
    players = _players(env)
    successes: list[bool | None] = [None] * len(running)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        while running.any():
            check()
            arrived, td = env.step_and_maybe_reset(policy(td.to(device)).to(home))
            reward, done = (arrived["next", key].reshape(len(running)).cpu() for key in ("reward", "done"))
            returns += torch.where(running, reward, torch.zeros_like(reward)).double()
            lengths += running.long()
            for place in (running & done).nonzero().flatten().tolist():
                successes[place] = players[place].last_success if players else None
            running &= ~done
    told = [success for success in successes if success is not None]
    return Evaluation(agent_steps, returns.tolist(), lengths.tolist(), told if len(told) == len(successes) else [])


def _players(env: EnvBase) -> list[AgentSteps]:
    """The environments that can tell of success; none if any of them is not of `make_env` or in another process."""
    try:
        found = list(simulators(env))
    except TypeError:
        return []
    players = [player for player in found if isinstance(player, AgentSteps)]
    return players if len(players) == len(found) else []
