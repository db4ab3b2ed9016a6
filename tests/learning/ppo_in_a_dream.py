"""Stable-Baselines3's PPO, untouched, learns in the dream of a trained model and is tried in the true environment.

`python ppo_in_a_dream.py RUN…` takes runs of TD-MPC2 with continuous actions, where PPO sees the features of the
latent, dreamt or of what the true environment shows, and runs of DreamerV3 on CartPole-v1, where it sees observations,
as the tutorial has it. The results are written beside the others.
"""

from __future__ import annotations

import dataclasses
import runpy
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import torch
from crossings import returns
from stable_baselines3 import PPO
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from test_learning import RESULTS, random_returns

from worldloom_rl.atomic import write_json
from worldloom_rl.commands.trained import newest, open_run
from worldloom_rl.training.loop import read_config
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.run_directory import provenance
from worldloom_rl.world_model import WorldModel

TUTORIAL = runpy.run_path(str(Path(__file__).parents[2] / "tutorials" / "learn_in_a_dream.py"))
EPISODES = 20
STEPS = (25_000, 50_000, 100_000)  # dreamt, after which true episodes are played
DREAM = {"horizon": 50, "observations": "features", "starts": "replay", "autoreset_mode": "SameStep"}
DREAMS = 64  # side by side
SETTINGS = {"n_steps": 32, "batch_size": 256, "gamma": 0.95, "learning_rate": 1e-3}


class Learned(TensorDictModuleBase):
    """Acts in the true environment as an agent of Stable-Baselines3 does on the features of what is seen."""

    def __init__(self, model: WorldModel, agent: PPO) -> None:
        super().__init__()
        self.model, self.agent = model, agent
        self.in_keys, self.out_keys = list(model.latent_keys), list(model.action_keys)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        action, _ = self.agent.predict(self.model.features(tensordict).numpy(), deterministic=True)
        return tensordict.set(self.model.action_keys[0], torch.as_tensor(action))


def learned(run: Path, steps: tuple[int, ...] = STEPS) -> dict[str, Any]:
    """What PPO comes to in true episodes, before it learned and after so many dreamt steps."""
    trained = newest(run)
    config, model = trained.config, trained.model
    dreams = gymnasium.make_vec("worldloom/Dream-v0", num_envs=DREAMS, model=str(run), **DREAM)
    agent = PPO("MlpPolicy", TUTORIAL["SideBySide"](dreams), **SETTINGS, seed=config.seed, device="cpu")
    policy = TensorDictSequential(model.encode, Learned(model, agent))
    played = [{"dreamt_steps": 0, "returns": returns(config, policy, model)}]
    begin = time.process_time()
    for count in steps:
        agent.learn(count - agent.num_timesteps, reset_num_timesteps=False)
        played.append({"dreamt_steps": agent.num_timesteps, "returns": returns(config, policy, model)})
    seconds = round(time.process_time() - begin, 1)
    dreams.close()
    own = TensorDictSequential(model.encode, model.make_actor())
    return {
        "env": config.env,
        "seed": config.seed,
        "config": dataclasses.asdict(config),
        "dream": {**DREAM, "num_envs": DREAMS},
        "ppo": SETTINGS,
        "stable_baselines3": version("stable-baselines3"),
        "played": played,
        "policy_prior_returns": returns(config, own, model),
        "random_returns": random_returns(config, EPISODES),
        "processor_seconds": seconds,
    }


def config_of(run: Path) -> RunConfig:
    """What the run was told; its model is not loaded."""
    return read_config(*open_run(run))


def learned_by_observations(run: Path, steps: int = 48_000) -> dict[str, Any]:
    """What the tutorial's PPO comes to in CartPole-v1."""
    config = config_of(run)
    begin = time.process_time()
    before, after = TUTORIAL["main"](str(run), steps)
    return {
        "env": config.env,
        "seed": config.seed,
        "config": dataclasses.asdict(config),
        "stable_baselines3": version("stable-baselines3"),
        "played": [{"dreamt_steps": 0, "returns": before}, {"dreamt_steps": steps, "returns": after}],
        "random_returns": random_returns(config, len(before)),
        "processor_seconds": round(time.process_time() - begin, 1),
    }


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        result = learned_by_observations(run) if config_of(run).env == "CartPole-v1" else learned(run)
        file = RESULTS / f"ppo-in-a-dream-{result['env'].lower().partition('-')[0]}-seed{result['seed']}.json"
        write_json(file, {**result, **provenance()})
        for point in result["played"]:
            mean = sum(point["returns"]) / len(point["returns"])
            sys.stdout.write(f"{point['dreamt_steps']:7} dreamt steps: return {mean:.1f} in the true environment\n")
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
