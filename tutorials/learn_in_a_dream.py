"""Stable-Baselines3's PPO, untouched, learns in the dream of a trained DreamerV3 and is tried in the true CartPole.

worldloom train dreamerv3 --env CartPole-v1 --overrides continue_coef=5 --steps 5000 --run-directory RUN
python learn_in_a_dream.py RUN [STEPS]
"""

import sys

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

import worldloom_rl  # noqa: F401 - makes "worldloom/Dream-v0" known to gymnasium


class SideBySide(VecEnv):
    """A vector environment of gymnasium, which begins anew at the same step, as Stable-Baselines3 has them."""

    def __init__(self, env):
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self):
        return self.env.reset(seed=self._seeds[0])[0]

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        observed, reward, terminated, truncated, info = self.env.step(self.actions)
        ended = terminated | truncated
        told = [{"TimeLimit.truncated": bool(cut)} for cut in truncated & ~terminated]
        for place in np.flatnonzero(ended):
            told[place]["terminal_observation"] = info["final_obs"][place]
        return observed, reward, ended, told

    def close(self):
        self.env.close()

    def get_attr(self, name, indices=None):
        return [getattr(self.env, name)] * self.num_envs

    def set_attr(self, name, value, indices=None):
        raise NotImplementedError

    def env_method(self, name, *arguments, indices=None, **options):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper, indices=None):
        return [False] * self.num_envs


def main(run: str, steps: int) -> list[list[float]]:
    """Returns of ten true episodes, before PPO learns and after so many dreamt steps."""
    torch.set_num_threads(1)
    dreams = gymnasium.make_vec(
        "worldloom/Dream-v0", num_envs=64, model=run, horizon=200, observations="decoded", starts="replay",
        ending="sample", autoreset_mode="SameStep",
    )  # fmt: skip
    # Ends are drawn, so that one which the dream holds for possible counts as often.
    agent = PPO(
        "MlpPolicy", SideBySide(dreams), n_steps=64, batch_size=512, gamma=0.99, ent_coef=0.02, seed=1, device="cpu"
    )
    true = Monitor(gymnasium.make("CartPole-v1"))
    true.reset(seed=1)
    before = evaluate_policy(agent, true, n_eval_episodes=10, return_episode_rewards=True)[0]
    agent.learn(steps)
    after = evaluate_policy(agent, true, n_eval_episodes=10, return_episode_rewards=True)[0]
    print(f"return in the true environment: {np.mean(before):.1f}, after {steps} dreamt steps {np.mean(after):.1f}")
    return [before, after]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 48_000)
