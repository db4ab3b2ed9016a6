"""What an environment is to a world model, found out in seconds: keys, memory, time, problems and remedies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torchrl.envs import EnvBase

from worldloom_rl.config import Json
from worldloom_rl.envs import episode_length
from worldloom_rl.envs.agent_steps import AgentSteps
from worldloom_rl.envs.real import simulators
from worldloom_rl.keys import as_tuple
from worldloom_rl.report.environment_leaves import action_leaves, is_real, observation_leaves, observed_spaces
from worldloom_rl.report.environment_report import EnvironmentReport, Problem
from worldloom_rl.report.family_trial import Recipe, family_report
from worldloom_rl.report.random_play import find_problems, play_randomly, summary
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training.options import RunConfig


def check_environment(
    name: str,
    recipes: Sequence[Recipe],
    *,
    env_kwargs: tuple[str, ...] = (),
    action_repeat: int | None = None,
    pixels: bool = False,
    time_limit: int | None = None,
    steps: int = 3000,
    seed: int = 0,
) -> EnvironmentReport:
    """What the environment is to each recipe's family, from its specs, random actions and a few updates.

    Nothing is written. Where the environment cannot be used the report says why instead of raising; only what is wrong
    with the arguments raises ValueError. Torch's generator is as before.

    Args:
        name, action_repeat, pixels, time_limit: as for `make_env`; the action repeat's default is the recipes'.
        env_kwargs: as for `make_env`, each "name=value".
        recipes: of the families to try, such as `worldloom_rl.recipes.dreamerv3.RECIPE`.
        steps: agent steps to project times for.

    Example:
        >>> from worldloom_rl.recipes import dreamerv3, tdmpc2
        >>> report = check_environment("Pendulum-v1", [dreamerv3.RECIPE, tdmpc2.RECIPE])
        >>> report.trainable, [leaf.key for leaf in report.observations]
        (True, ['observation'])
    """
    given: dict[str, Json] = {
        "env": name,
        "env_kwargs": env_kwargs,
        "action_repeat": action_repeat,
        "pixels": pixels,
        "time_limit": time_limit,
        "seed": seed,
    }
    configs = [recipe.config_class(**given, steps=steps) for recipe in recipes]
    report = EnvironmentReport(name, _arguments(configs[0]), configs[0].repeat, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            env = configs[0].make_env(1, seed)
        except ValueError as error:
            return dataclasses.replace(report, refusal=str(error))
        observed = observed_spaces(env)
        leaves = tuple(observation_leaves(env, observed))
        report = dataclasses.replace(report, observations=leaves, longest_episode=episode_length(env))
        try:
            report = dataclasses.replace(report, actions=tuple(action_leaves(env)))
            transitions, seconds = play_randomly(env)
        except ValueError as error:
            return dataclasses.replace(report, refusal=str(error))
        finally:
            env.close()
        keys = list(specs_of(env)[0].keys(include_nested=True, leaves_only=True))
        play = summary(transitions, seconds)
        real = [key for key in keys if is_real(observed.get(as_tuple(key)))]
        problems = (*find_problems(transitions, play, keys, real), *_forbidden(env))
        report = dataclasses.replace(report, play=play, problems=problems)
        families = (family_report(recipe, config) for recipe, config in zip(recipes, configs, strict=True))
        return dataclasses.replace(report, families=tuple(families))


def _arguments(config: RunConfig) -> tuple[str, ...]:
    """The options of `worldloom train` that make this environment."""
    options = ["--env", config.env, *(["--env-kwargs", *config.env_kwargs] if config.env_kwargs else [])]
    for name in ("action_repeat", "time_limit"):
        if getattr(config, name) is not None:
            options += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return (*options, *(["--pixels"] if config.pixels else []), "--steps", str(config.steps))


def _forbidden(env: EnvBase) -> Iterator[Problem]:
    """What an action mask did to the random actions."""
    forbidden = sum(steps.forbidden for steps in simulators(env) if isinstance(steps, AgentSteps))
    if forbidden:
        yield Problem(
            f"The action mask forbade the action at {forbidden} simulator steps of random play.",
            "None is needed: in a forbidden action's place the next one that is allowed is played, here and in "
            "training, and a model learns that the two do the same.",
        )
