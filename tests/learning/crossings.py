"""The two crossings: MPPI through a DreamerV3 model, and an actor-critic in the imagination of a TD-MPC2 model.

`python crossings.py FAMILY RUN` takes a trained run, makes the crossing and writes its result beside the other results.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path

import torch
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from test_learning import RESULTS, random_returns
from torch import nn

from worldloom_rl.atomic import write_json
from worldloom_rl.models.dreamerv3 import make_planner, make_policy
from worldloom_rl.models.tdmpc2 import make_policy as make_tdmpc2_policy
from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.objectives import ActorPolicy, ImaginedActorCriticLoss
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state
from worldloom_rl.training.evaluate import evaluate, with_primers
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.run_directory import RunDirectory, provenance
from worldloom_rl.world_model import WorldModel

EPISODES = 20
UPDATES = 3000  # of the actor-critic in TD-MPC2's imagination
HORIZON = 5
PLANNER = {"horizon": 5, "iterations": 4, "num_samples": 128, "num_elites": 16, "num_policy_trajectories": 16}


def returns(config: RunConfig, policy: TensorDictModuleBase, model: WorldModel) -> list[float]:
    """Returns of whole episodes, the same ones for every policy, with draws of their own."""
    model.noise = GeneratorNoise(torch.Generator().manual_seed(config.seed))
    env = with_primers(config.make_env(EPISODES, seed=7_000 + config.seed), policy)
    return evaluate(env, policy, config.steps, 7_000 + config.seed).returns


def shuffled(model: WorldModel, head: str) -> WorldModel:
    """A copy whose reward head has the rows of its last layer in another order: wrong rewards of the same sizes."""
    wrong = copy.deepcopy(model)
    *_, last = (layer for layer in wrong.get_submodule(head).modules() if isinstance(layer, nn.Linear))
    order = torch.randperm(last.out_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
    return wrong


def plan_in_dreamerv3(model: WorldModel) -> TensorDictSequential:
    """MPPI with the critic as terminal value and the actor as policy prior."""
    return TensorDictSequential(model.observe, make_planner(model, **PLANNER), model.carry_action)


def act_in_tdmpc2(model: WorldModel, state: tdmpc2.State) -> TensorDictSequential:
    """An actor trained from nothing in the model's imagination."""
    torch.manual_seed(state.config.seed)
    width = model.latent_features(model.initial_latent()).shape[-1]
    behavior = ActorCritic(width, model.action_space, units=64)
    loss = ImaginedActorCriticLoss(model, behavior, horizon=HORIZON)
    optimizer = torch.optim.Adam([p for p in behavior.parameters() if p.requires_grad], lr=5e-4)
    for _ in range(UPDATES):
        with torch.no_grad():
            start = model.encode(state.sample()[:, 0])
        losses = loss(start)
        (losses["loss_actor"] + losses["loss_critic"]).backward()
        nn.utils.clip_grad_norm_(behavior.parameters(), 20.0)
        optimizer.step()
        optimizer.zero_grad()
        behavior.update_slow()
    return TensorDictSequential(model.encode, ActorPolicy(model, behavior.actor))


def cross(family: str, run: RunDirectory) -> Path:
    """Make the crossing on a run of that family; returns the result file."""
    recipe = {"dreamerv3": dreamerv3.RECIPE, "tdmpc2": tdmpc2.RECIPE}[family]
    config = loop.read_config(recipe, run)
    state = load_state(recipe, config, run.checkpoints.latest())
    model = state.model.eval()
    begin = time.monotonic()
    if family == "dreamerv3":
        name, own = "mppi-through-dreamerv3", make_policy(model)
        crossing = plan_in_dreamerv3(model)
        wrong_model = shuffled(model, "reward_head")
        wrong = plan_in_dreamerv3(wrong_model)
    else:
        name, own = "actor-in-tdmpc2", make_tdmpc2_policy(model)
        crossing = act_in_tdmpc2(model, state)
        wrong_model = shuffled(model, "reward_head")
        wrong = act_in_tdmpc2(wrong_model, state)
    played = {
        "own": returns(config, own, model),
        "crossing": returns(config, crossing, model),
        "shuffled": returns(config, wrong, wrong_model),
        "random": random_returns(config, EPISODES),
    }
    result = {
        "crossing": name,
        "env": config.env,
        "seed": config.seed,
        "training_seconds": json.loads((run.path / "result.json").read_text())["training_seconds"],
        **{f"{who}_returns": found for who, found in played.items()},
        "mean_returns": {who: sum(found) / len(found) for who, found in played.items()},
        "seconds": round(time.monotonic() - begin, 1),
        **provenance(),
    }
    file = RESULTS / f"crossing-{name}-seed{config.seed}.json"
    write_json(file, result)
    state.close()
    return file


if __name__ == "__main__":
    torch.set_num_threads(1)
    written = cross(sys.argv[1], RunDirectory(sys.argv[2]))
    for who, mean in json.loads(written.read_text())["mean_returns"].items():
        sys.stdout.write(f"{who:10} {mean:.1f}\n")
