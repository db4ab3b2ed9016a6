"""Actors trained from nothing in the imagination of a token world model, with its reward head and with a shuffled one.

`python token_actors.py RUN …` takes trained runs; their world models stay as they are, and their replays give the
frames from which imagination starts. The results are written beside the other results.
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
from torchrl.modules import set_recurrent_mode

from worldloom_rl.atomic import write_json
from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.objectives import ActorPolicy, ImaginedActorCriticLoss
from worldloom_rl.recipes import tokens
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state
from worldloom_rl.training.evaluate import evaluate, with_primers
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.run_directory import RunDirectory, provenance
from worldloom_rl.world_model import WorldModel

EPISODES = 100
UPDATES = 300


def shuffled(model: WorldModel) -> WorldModel:
    """A copy whose reward head has the rows of its last layer in another order: wrong rewards of the same sizes."""
    wrong = copy.deepcopy(model)
    last = wrong.get_submodule("dynamics.reward_head").output
    order = torch.randperm(last.out_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
    return wrong


def train_actor(model: WorldModel, state: tokens.State) -> TensorDictSequential:
    """A policy whose actor learned in the model's imagination only, from the last row of each window of replay."""
    torch.manual_seed(state.config.seed)
    config, width = model.config, model.behavior.actor.trunk[0].in_features
    behavior = ActorCritic(width, model.action_space, units=config.units)
    loss = ImaginedActorCriticLoss(model, behavior, horizon=config.horizon, entropy_coef=config.entropy_coef)
    learned = [parameter for parameter in behavior.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=config.behavior_learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(UPDATES):
        batch = state.sample()
        carry = model.write_latent(batch.clone(), model.initial_latent(batch.batch_size))
        carry["is_init"][:, 0] = True
        with torch.no_grad(), set_recurrent_mode(True):
            start = model.observe(carry)[:, -1].select("latent")
        losses = loss(start)
        (losses["loss_actor"] + losses["loss_critic"]).backward()
        nn.utils.clip_grad_norm_(learned, config.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        behavior.update_slow()
    return TensorDictSequential(model.observe, ActorPolicy(model, behavior.actor), model.carry_action)


def returns(config: RunConfig, policy: TensorDictModuleBase, model: WorldModel) -> list[float]:
    """Returns of whole episodes, the same ones for every policy, with draws of their own."""
    model.noise = GeneratorNoise(torch.Generator().manual_seed(config.seed))
    env = with_primers(config.make_env(EPISODES, seed=7_000 + config.seed), policy)
    return evaluate(env, policy, config.steps, 7_000 + config.seed).returns


def compare(run: RunDirectory) -> Path:
    """Train and play both actors; returns the result file."""
    config = loop.read_config(tokens.RECIPE, run)
    state = load_state(tokens.RECIPE, config, run.checkpoints.latest())
    model = state.model.eval()
    wrong = shuffled(model)
    begin = time.monotonic()
    policies = {"own": (tokens.make_policy(model), model)}
    policies["imagined"] = (train_actor(model, state), model)
    policies["shuffled"] = (train_actor(wrong, state), wrong)
    training_seconds = time.monotonic() - begin
    played = {who: returns(config, policy, its_model) for who, (policy, its_model) in policies.items()}
    played["random"] = random_returns(config, EPISODES)
    result = {
        "env": config.env,
        "seed": config.seed,
        "world_model_training_seconds": json.loads((run.path / "result.json").read_text())["training_seconds"],
        "actor_updates": UPDATES,
        "both_actors_training_seconds": round(training_seconds, 1),
        **{f"{who}_returns": found for who, found in played.items()},
        "mean_returns": {who: sum(found) / len(found) for who, found in played.items()},
        **provenance(),
    }
    file = RESULTS / f"token-imagination-catch-seed{config.seed}.json"
    write_json(file, result)
    state.close()
    return file


if __name__ == "__main__":
    torch.set_num_threads(1)
    for trained in sys.argv[1:]:
        written = compare(RunDirectory(trained))
        sys.stdout.write(f"{written}\n")
        for who, mean in json.loads(written.read_text())["mean_returns"].items():
            sys.stdout.write(f"{who:10} {mean:.1f}\n")
        sys.stdout.flush()
