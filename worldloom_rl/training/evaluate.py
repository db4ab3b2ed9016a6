"""Evaluation: one whole episode in each of several environments, planned for side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import RandomPolicy

from worldloom_rl.envs.agent_steps import AgentSteps
from worldloom_rl.envs.real import of_each
from worldloom_rl.envs.simulator_output import Simulator
from worldloom_rl.envs.tasks import InTask
from worldloom_rl.tasks import environment_name, is_metaworld
from worldloom_rl.training.options import RunConfig
from worldloom_rl.world_model import WorldModel

RETURN, SUCCESS = "return/", "success/"  # before a task's name, in statistics
NORMALISED_SCORE = "normalised_score"  # in statistics


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths (agent steps) of whole episodes, played after `agent_steps` of training.

    Attributes:
        successes: whether each succeeded, None where the environment's `info` does not tell; empty if none does.
        updates: gradient updates made before.
        statistics: numbers by name, for people and logs; the only ones where no episode was played.
        tasks: of each episode, where the agent knows several.
    """

    agent_steps: int
    returns: list[float]
    lengths: list[int]
    successes: list[bool | None] = field(default_factory=list)
    updates: int = 0
    statistics: dict[str, float] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)

    @property
    def mean_return(self) -> float:
        """Mean over the episodes."""
        return sum(self.returns) / len(self.returns)

    @property
    def score(self) -> float:
        """What tells a better checkpoint: the normalised score where tasks have one, else the mean return."""
        return self.statistics.get(NORMALISED_SCORE, self.mean_return)

    @property
    def returns_by_task(self) -> dict[str, list[float]]:
        """Of several tasks, in the order of their numbers."""
        by_task: dict[str, list[float]] = {}
        for task, value in zip(self.tasks, self.returns, strict=bool(self.tasks)):
            by_task.setdefault(task, []).append(value)
        return by_task

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded, of those that tell. Raises ZeroDivisionError if none does."""
        told = [success for success in self.successes if success is not None]
        return sum(told) / len(told)

    def of_task(self, task: str) -> Evaluation:
        """The episodes of one of several tasks."""
        places = [place for place, played in enumerate(self.tasks) if played == task]
        told = [self.successes[place] for place in places] if self.successes else []
        return dataclasses.replace(
            self,
            returns=[self.returns[place] for place in places],
            lengths=[self.lengths[place] for place in places],
            successes=told if any(success is not None for success in told) else [],
            statistics={},
            tasks=[task] * len(places),
        )

    def __str__(self) -> str:
        parts = [f"return {self.mean_return:.1f}"] if self.returns else []
        parts += [f"success rate {self.success_rate:.2f}"] if self.successes else []
        parts += [
            f"{name} {value:.3g}" for name, value in self.statistics.items() if not name.startswith((RETURN, SUCCESS))
        ]
        parts += [f"{len(self.returns)} episodes"] if self.returns else []
        by_task = [f"{task} {sum(values) / len(values):.1f}" for task, values in self.returns_by_task.items()]
        return ", ".join(parts) + (f" ({', '.join(by_task)})" if by_task else "")


def united(parts: Sequence[Evaluation]) -> Evaluation:
    """All episodes of evaluations of the same weights, in order, and the means of what else they measured."""
    if len(parts) == 1:
        return parts[0]
    told = any(part.successes for part in parts)
    return dataclasses.replace(
        parts[0],
        returns=[value for part in parts for value in part.returns],
        lengths=[length for part in parts for length in part.lengths],
        successes=[success for part in parts for success in part.successes or [None] * len(part.returns) if told],
        statistics={name: sum(part.statistics[name] for part in parts) / len(parts) for name in parts[0].statistics},
    )


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
    return play_in(config.make_env(episodes, seed), model, policy, seed, check)


def play_in(
    env: EnvBase,
    model: WorldModel,
    policy: TensorDictModuleBase,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """As `play`, in these environments, which are closed after it."""
    env = with_primers(env, policy)
    try:
        with model.drawing_from(seed), torch.random.fork_rng():  # seeding an environment seeds torch too
            return evaluate(env, policy, 0, seed, check)
    finally:
        env.close()


def by_task(evaluation: Evaluation, played: Sequence[str]) -> Evaluation:
    """An evaluation of these tasks with what each came to: names, mean returns and the normalised score.

    Args:
        played: as many episodes of each, next to each other.
    """
    each = len(evaluation.returns) // len(played)
    tasks = [task for task in played for _ in range(each)]
    told = dataclasses.replace(evaluation, tasks=tasks)
    parts = {task: told.of_task(task) for task in played}
    means = {task: part.mean_return for task, part in parts.items()}
    rates = {task: part.success_rate for task, part in parts.items() if part.successes}
    scores = [score for task in parts if (score := normalised(task, means[task], rates.get(task))) is not None]
    statistics = {NORMALISED_SCORE: sum(scores) / len(scores)} if scores else {}
    statistics |= {f"{RETURN}{task}": mean for task, mean in means.items()}
    statistics |= {f"{SUCCESS}{task}": rate for task, rate in rates.items()}
    return dataclasses.replace(told, statistics=statistics)


def normalised(task: str, mean_return: float, success_rate: float | None = None) -> float | None:
    """From 0 to 100, what an agent is worth in a task: in DeepMind Control a tenth of its mean return, in Meta-World
    ("mw-…") its successes in a hundred; None of other environments.

    Reference: tdmpc2 evaluate.py.
    """
    if is_metaworld(task):
        return None if success_rate is None else 100 * success_rate
    return mean_return / 10 if environment_name(task).startswith("dmc:") else None


def worst_task(statistics: Mapping[str, float], played: Sequence[str]) -> str:
    """The task with the lowest normalised score, or the lowest mean return where not all that were played have a score;
    the first of `played` if none of them was evaluated.

    Args:
        statistics: of an evaluation, see `by_task`.
    """
    means = {task: statistics[f"{RETURN}{task}"] for task in played if f"{RETURN}{task}" in statistics}
    if not means:
        return played[0]
    scores = {task: normalised(task, mean, statistics.get(f"{SUCCESS}{task}")) for task, mean in means.items()}
    known = {task: score for task, score in scores.items() if score is not None}
    judged = known if len(known) == len(means) else means
    return min(judged, key=judged.__getitem__)


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
        env: batch [] or [E], see `with_primers`; successes are known of environments of `make_env`.
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
    successes: list[bool | None] = [None] * len(running)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        while running.any():
            check()
            arrived, td = env.step_and_maybe_reset(policy(td.to(device)).to(home))
            reward, done = (arrived["next", key].reshape(len(running)).cpu() for key in ("reward", "done"))
            returns += torch.where(running, reward, torch.zeros_like(reward)).double()
            lengths += running.long()
            if ended := (running & done).nonzero().flatten().tolist():
                told = _successes(env)
                for place in ended:
                    successes[place] = told[place] if told else None
            running &= ~done
    some = any(success is not None for success in successes)
    return Evaluation(agent_steps, returns.tolist(), lengths.tolist(), successes if some else [])


def _successes(env: EnvBase) -> list[bool | None]:
    """Whether the last episode of each environment succeeded; none if they are not gymnasium's."""
    try:
        return list(of_each(env, _last_success))
    except TypeError:
        return []


def _last_success(simulator: Simulator) -> bool | None:
    player = simulator.env if isinstance(simulator, InTask) else simulator
    return player.last_success if isinstance(player, AgentSteps) else None
