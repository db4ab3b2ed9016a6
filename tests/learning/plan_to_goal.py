"""The JEPA's learning test: trained without rewards on PointRoom, it plans to goal images; without SIGReg it does not.

`python plan_to_goal.py SEED [MODEL …]` trains the models (all unless named), plans with them, and writes the result
beside the others; models that are not named keep what an earlier call found.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from test_learning import RESULTS
from torch import nn
from torchrl.collectors import Collector
from torchrl.modules import RandomPolicy

from worldloom_rl.atomic import write_json
from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.envs import make_env
from worldloom_rl.envs.point_room import EPISODE_STEPS, picture
from worldloom_rl.functional.goal_reward import GoalReward
from worldloom_rl.models.jepa import JEPA, JEPAConfig, make_policy
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.objectives import WorldModelLoss
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training.evaluate import evaluate, with_primers
from worldloom_rl.training.run_directory import provenance

ENV = "worldloom/PointRoom-v0"
EPISODES = 400  # of random actions, all that is learned from
UPDATES = 1200
TEST_EPISODES = 30
PROBED = 500  # positions, half to fit the probe, half to test it


def collect(model: JEPA, seed: int) -> Replay:
    """Windows of episodes in which actions are drawn from the action spec."""
    env = make_env(ENV, num_envs=EPISODES // 20, seed=seed)
    frames = EPISODES * EPISODE_STEPS
    collector = Collector(env, RandomPolicy(env.full_action_spec), frames_per_batch=frames // 20, total_frames=frames)
    arrivals = Arrivals(model.frame_keys, model.action_keys)
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    rows = frames + EPISODES
    replay = Replay(capacity=rows, window=config.history + 1, batch_size=config.batch_size, generator=generator)
    for transitions in collector:
        replay.extend(arrivals(transitions))
    collector.shutdown()
    return replay


def train(model: JEPA, replay: Replay, seed: int) -> dict[str, float]:
    """Train; the last batch's losses and spread of embeddings, and the processor seconds it took."""
    config = model.config
    model.train()
    loss = WorldModelLoss(model, config.loss_weights)
    noise = GeneratorNoise(torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / UPDATES)))
    begin = time.process_time()
    for _ in range(UPDATES):
        losses, posterior = loss(replay.sample(), noise)
        optimizer.zero_grad()
        losses.sum(reduce=True).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip_norm)
        optimizer.step()
        schedule.step()
    model.eval()
    last = {name: float(value.detach()) for name, value in losses.items()}
    return {**last, "z_std": float(posterior["z_std"].mean()), "processor_seconds": time.process_time() - begin}


@torch.no_grad()
def probe(model: JEPA, seed: int) -> float:
    """R² of the position as a linear function of the embedding, on positions that the function was not fitted to."""
    position = np.random.default_rng(seed).uniform(-1, 1, (PROBED, 2))
    images = torch.from_numpy(np.stack([picture(place) for place in position])).permute(0, 3, 1, 2)
    z = model.embed({"pixels": images}).squeeze(-2)
    inputs = torch.cat([z, torch.ones(len(z), 1)], -1).double()
    target = torch.from_numpy(position)
    fitted, tested = slice(0, PROBED // 2), slice(PROBED // 2, PROBED)
    weights = torch.linalg.lstsq(inputs[fitted], target[fitted], driver="gelsd").solution
    error = (inputs[tested] @ weights - target[tested]).square().sum()
    return float(1 - error / (target[tested] - target[tested].mean(0)).square().sum())


def play(policy: TensorDictModuleBase | None, seed: int) -> dict[str, float]:
    """Success and mean distance from the goal in episodes that are the same for every policy; None acts randomly."""
    env = make_env(ENV, num_envs=TEST_EPISODES)
    if policy is not None:
        env = with_primers(env, policy)
    begin = time.process_time()
    played = evaluate(env, policy or RandomPolicy(env.full_action_spec), 0, 9_000 + seed)
    env.close()
    return {
        "success": played.success_rate,
        "mean_distance": -played.mean_return / EPISODE_STEPS,
        "processor_seconds": time.process_time() - begin,
    }


def planned(model: JEPA, seed: int, **settings) -> dict[str, float]:
    model.noise = GeneratorNoise(torch.Generator().manual_seed(seed))
    return play(make_policy(model, **settings), seed)


MODELS = {"sigreg": {}, "vcreg": {"regularizer": "vcreg"}, "none": {"regularizer": "none"}}


def learned(name: str, seed: int) -> dict:
    """What a model of the tiny preset, with this regularizer, comes to."""
    base: JEPAConfig = find_preset("jepa:tiny")[1]
    torch.manual_seed(seed)
    model = JEPA(dataclasses.replace(base, **MODELS[name]), *specs_of(make_env(ENV)))
    found = {"training": train(model, collect(model, seed), seed), "probe_r2": probe(model, seed)}
    found["dense"] = planned(model, seed)
    if name == "sigreg":
        terminal = GoalReward(model.distance, terminal=True)
        found["terminal_first_action"] = planned(model, seed, reward=terminal)
        found["terminal_whole_plan"] = planned(model, seed, execute=base.horizon)
    return found


def record(seed: int, models: Sequence[str] = tuple(MODELS)) -> Path:
    """Write the result file of a seed, with these models' results renewed."""
    file = RESULTS / f"jepa-point-room-seed{seed}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    torch.manual_seed(1_000 + seed)
    result = {
        "env": ENV,
        "seed": seed,
        "episodes": EPISODES,
        "updates": UPDATES,
        "test_episodes": TEST_EPISODES,
        "config": find_preset("jepa:tiny")[1].to_json(),
        "random": play(None, seed),
    }
    for name in MODELS:
        if name in models or name in before:
            result[name] = learned(name, seed) if name in models else before[name]
    write_json(file, {**result, **provenance()})
    return file


if __name__ == "__main__":
    torch.set_num_threads(1)
    record(int(sys.argv[1]), sys.argv[2:] or tuple(MODELS))
