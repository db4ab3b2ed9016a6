"""Return against the sequences that a plan values, for every planner, in the same episodes and by the same models.

`python planners.py RUN…` plans with the models of TD-MPC2's runs on Pendulum-v1, `python planners.py SEED…` with a JEPA
on PointRoom, which is trained first (`plan_to_goal.py`); either writes its results beside the others. Without an
argument what was written is drawn. Plans know rewards alone: they have neither a value at their end nor a policy prior.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import plan_to_goal
import torch
from matplotlib.figure import Figure
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from test_learning import RESULTS, random_returns
from torchrl.envs import EnvBase
from torchrl.modules import RandomPolicy

from worldloom_rl.atomic import write_json
from worldloom_rl.commands.trained import newest
from worldloom_rl.envs import make_env
from worldloom_rl.functional.goal_reward import GoalReward
from worldloom_rl.models.jepa import JEPA
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.planners import (
    CEMPlanner,
    GradientPlanner,
    ICEMPlanner,
    MPPIPlanner,
    Planner,
    PredictiveSamplingPlanner,
    RandomShootingPlanner,
)
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training.evaluate import evaluate, with_primers
from worldloom_rl.training.learning_curve import write_picture
from worldloom_rl.training.run_directory import provenance
from worldloom_rl.world_model import WorldModel

PICTURE = Path(__file__).parents[2] / "tutorials" / "images" / "planners.png"
SEQUENCES = (16, 64, 256)  # that a plan values, in all its rounds
ROUNDS, CLIMBS = 4, 7  # of planners that refit, of the one that climbs
EPISODES = 10
HORIZON = 10  # of plans on Pendulum-v1, each step two of the simulator
TITLES = {"pendulum": "Pendulum-v1, by a TD-MPC2", "point-room": "PointRoom, by a JEPA"}
# Okabe and Ito's colours, which the colour-blind tell apart.
COLORS = {
    "random shooting": "#999999",
    "predictive sampling": "#56B4E9",
    "CEM": "#009E73",
    "iCEM": "#0072B2",
    "MPPI": "#D55E00",
    "gradient": "#CC79A7",
}
MARKERS = dict(zip(COLORS, "osD^vP", strict=True))


def planners(count: int) -> dict[str, Callable[..., Planner]]:
    """Each planner so that a plan values `count` sequences, all else as its class has it."""
    elites = max(2, count // ROUNDS // 8)
    refitted = {"iterations": ROUNDS, "num_samples": count // ROUNDS, "num_elites": elites}
    kept = min(3, elites)
    made: dict[str, Callable[..., Planner]] = {
        "random shooting": partial(RandomShootingPlanner, num_samples=count),
        "predictive sampling": partial(PredictiveSamplingPlanner, num_samples=count),
        "CEM": partial(CEMPlanner, **refitted),
        "iCEM": partial(ICEMPlanner, **refitted, decay=1.0, keep_elites=kept, carry_elites=kept),
        "MPPI": partial(MPPIPlanner, **refitted),
        "gradient": partial(GradientPlanner, iterations=CLIMBS, num_samples=count // (CLIMBS + 1)),
    }
    assert made.keys() == COLORS.keys()
    return made


def measured(
    make_policy: Callable[[Callable[..., Planner]], TensorDictModuleBase],
    model: WorldModel,
    new_env: Callable[[], EnvBase],
    seed: int,
    sequences: Sequence[int] = SEQUENCES,
) -> dict[str, list[dict[str, Any]]]:
    """Returns by planner and count, in episodes that are the same for all."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in COLORS}
    for count in sequences:
        for name, make in planners(count).items():
            model.noise = GeneratorNoise(torch.Generator().manual_seed(seed))
            policy = make_policy(make)
            begin = time.process_time()
            env = with_primers(new_env(), policy)
            returns = evaluate(env, policy, 0, 7_000 + seed).returns
            env.close()
            seconds = round(time.process_time() - begin, 2)
            found[name].append({"sequences": count, "returns": returns, "processor_seconds": seconds})
    return found


def pendulum(run: Path, sequences: Sequence[int] = SEQUENCES) -> dict[str, Any]:
    """What the planners make of the newest model of a TD-MPC2's run."""
    trained = newest(run)
    config, model = trained.config, trained.model

    def policy(make: Callable[..., Planner]) -> TensorDictSequential:
        return TensorDictSequential(model.encode, make(model, horizon=HORIZON))

    def new_env() -> EnvBase:
        return config.make_env(EPISODES, 7_000 + config.seed)

    return {
        "env": config.env,
        "seed": config.seed,
        "config": dataclasses.asdict(config),
        "agent_steps": trained.agent_steps,
        "horizon": HORIZON,
        "random_returns": random_returns(config, EPISODES),
        "planners": measured(policy, model, new_env, config.seed, sequences),
    }


def point_room(seed: int, sequences: Sequence[int] = SEQUENCES) -> dict[str, Any]:
    """What they make of a JEPA's that was trained for it."""
    torch.manual_seed(seed)
    model = JEPA(find_preset("jepa:tiny")[1], *specs_of(make_env(plan_to_goal.ENV)))
    training = plan_to_goal.train(model, plan_to_goal.collect(model, seed), seed)

    def policy(make: Callable[..., Planner]) -> TensorDictSequential:
        planner = make(model, horizon=model.config.horizon, reward=GoalReward(model.distance))
        return TensorDictSequential(model.observe, planner, model.carry_action)

    def new_env() -> EnvBase:
        return make_env(plan_to_goal.ENV, num_envs=EPISODES)

    env = new_env()
    at_random = evaluate(env, RandomPolicy(env.full_action_spec), 0, 7_000 + seed).returns
    env.close()
    return {
        "env": plan_to_goal.ENV,
        "seed": seed,
        "config": model.config.to_json(),
        "training": training,
        "horizon": model.config.horizon,
        "random_returns": at_random,
        "planners": measured(policy, model, new_env, seed, sequences),
    }


def draw(results: dict[str, list[dict[str, Any]]]) -> Figure:
    """Mean return against sequences by task, a line a planner; a band goes from the least seed to the greatest."""
    figure = Figure(figsize=(5.4 * len(results), 4.6), layout="constrained")
    for axes, (task, seeds) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for name, color in COLORS.items():
            counts = [point["sequences"] for point in seeds[0]["planners"][name]]
            means = torch.tensor(
                [[sum(p["returns"]) / len(p["returns"]) for p in result["planners"][name]] for result in seeds]
            )
            axes.plot(counts, means.mean(0), color=color, marker=MARKERS[name], label=name)
            axes.fill_between(counts, means.amin(0), means.amax(0), color=color, alpha=0.12, lw=0)
        by_chance = [value for result in seeds for value in result["random_returns"]]
        axes.axhline(sum(by_chance) / len(by_chance), color="black", linestyle=":", label="random actions")
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set(xlabel="sequences valued a plan", ylabel="return", title=f"{TITLES[task]} ({len(seeds)} seeds)")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(results))
    return figure


def recorded() -> dict[str, list[dict[str, Any]]]:
    """By task, the results of its seeds, where there are any."""
    files = {task: sorted(RESULTS.glob(f"planners-{task}-seed*.json")) for task in TITLES}
    return {task: [json.loads(file.read_text()) for file in found] for task, found in files.items() if found}


def main(arguments: Sequence[str]) -> None:
    for argument in arguments:
        task = "point-room" if argument.isdecimal() else "pendulum"
        result = point_room(int(argument)) if argument.isdecimal() else pendulum(Path(argument))
        write_json(RESULTS / f"planners-{task}-seed{result['seed']}.json", {**result, **provenance()})
        for name, points in result["planners"].items():
            means = (sum(point["returns"]) / len(point["returns"]) for point in points)
            sys.stdout.write(f"{name:20} {' '.join(f'{mean:8.1f}' for mean in means)}\n")
            sys.stdout.flush()
    if not arguments:
        write_picture(PICTURE, draw(recorded()), dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
