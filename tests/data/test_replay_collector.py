"""From TorchRL's collector to windows: rows are the transitions, stacked frames are CatFrames'."""

from __future__ import annotations

import doctest
import warnings

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import CatFrames, Compose, EnvBase, GymEnv, InitTracker, SerialEnv, StepCounter, TransformedEnv

from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.data import arrivals as arrivals_module
from worldloom_rl.data import replay as replay_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # TorchRL 0.14.1 warns of its own classes at import
    from torchrl.collectors import Collector

torch.set_num_threads(1)


class FramesEnv(EnvBase):
    """Random [1, 4, 4] frames; episodes end after 1 to 6 steps."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.observation_spec = Composite(pixels=Unbounded((1, 4, 4), dtype=torch.uint8))
        self.action_spec = Categorical(3)
        self.reward_spec = Unbounded((1,))
        self.done_spec = Composite(done=Binary(1, dtype=torch.bool), terminated=Binary(1, dtype=torch.bool))

    def _frame(self):
        return torch.randint(256, (1, 4, 4), generator=self.generator, dtype=torch.uint8)

    def _reset(self, tensordict=None, **kwargs):
        self.left = int(torch.randint(1, 7, (), generator=self.generator))
        return TensorDict({"pixels": self._frame(), "done": [False], "terminated": [False]}, [])

    def _step(self, tensordict):
        self.left -= 1
        over = torch.tensor([self.left == 0])
        return TensorDict({"pixels": self._frame(), "reward": torch.ones(1), "done": over, "terminated": over}, [])

    def _set_seed(self, seed):
        self.generator.manual_seed(seed)


def collect(env, frames, total, policy=None):
    collector = Collector(env, policy, frames_per_batch=frames, total_frames=total)
    yield from (data.clone() for data in collector)
    collector.shutdown()


def cartpole():
    return TransformedEnv(GymEnv("CartPole-v1"), StepCounter(12))


def check_rows_equal_transitions(env, streams):
    arrivals = Arrivals(["observation"])
    replay = Replay(capacity=2000, window=2, batch_size=20_000, by="window")
    found, ends = {}, 0
    for data in collect(env, 32, 256):
        replay.extend(arrivals(data))
        for row in data.reshape(-1):
            ends += int(row["next", "done"])
            found[tuple(row["observation"].tolist())] = row
    seen = set()
    batch = replay.sample()  # every window many times
    once = dict(zip(batch["replay", "index"][:, 0].tolist(), range(len(batch)), strict=True))
    windows = batch[list(once.values())]
    for before, after in (window.unbind(0) for window in windows):
        if after["is_init"]:
            assert before["terminated"] or before["truncated"]
            assert after["reward"] == 0
            assert after["previous_action"].sum() == 0
            continue
        transition = found[tuple(before["observation"].tolist())]
        seen.add(tuple(before["observation"].tolist()))
        assert torch.equal(after["observation"], transition["next", "observation"])
        assert torch.equal(after["previous_action"], transition["action"])
        for key in ("reward", "terminated", "truncated"):
            assert torch.equal(after[key], transition["next", key])
    assert len(seen) == len(found) == 256
    assert ends > 5
    assert len(replay) == 256 + streams + (ends - int(data["next", "done"].reshape(streams, -1)[:, -1].sum()))


def test_rows_of_one_environment_equal_its_transitions_terminal_observations_included():
    check_rows_equal_transitions(TransformedEnv(GymEnv("CartPole-v1"), Compose(StepCounter(12), InitTracker())), 1)


def test_rows_of_two_environments_equal_their_transitions_terminal_observations_included():
    check_rows_equal_transitions(TransformedEnv(SerialEnv(2, cartpole), InitTracker()), 2)


def test_stacked_frames_equal_the_catframes_transform():
    env = SerialEnv(2, [lambda: FramesEnv(0), lambda: FramesEnv(1)])
    stack = CatFrames(N=3, dim=-3, in_keys=["pixels"], out_keys=["stacked"])
    env = TransformedEnv(env, Compose(InitTracker(), stack))
    arrivals = Arrivals(["pixels", "stacked"])
    replay = Replay(capacity=61, window=4, batch_size=16, by="window", frame_stack={"pixels": 3})
    for data in collect(env, 16, 320):
        replay.extend(arrivals(data))
        if replay.can_sample():
            batch = replay.sample()
            assert batch["pixels"].shape == (16, 4, 3, 4, 4)
            assert torch.equal(batch["pixels"], batch["stacked"])


def test_latents_in_replay_are_those_the_policy_had_at_each_observation():
    class Policy(torch.nn.Module):
        def forward(self, observation):
            left = torch.randint(2, observation.shape[:-1])
            return 2 * observation, torch.stack([left, 1 - left], -1)

    policy = TensorDictModule(Policy(), in_keys=["observation"], out_keys=[("latent", "deterministic"), "action"])
    env = TransformedEnv(SerialEnv(2, cartpole), InitTracker())
    arrivals = Arrivals(["observation"], latent_keys=[("latent", "deterministic")])
    replay = Replay(capacity=1000, window=2, batch_size=4000, by="window")
    for data in collect(env, 10, 200, policy):
        replay.extend(arrivals(data))
    first = replay.sample()[:, 0]  # the rows that are followed by another
    over = first["terminated"] | first["truncated"]
    assert over.any()
    assert torch.equal(first["latent", "deterministic"], (2 * first["observation"]).where(~over, 0))


def test_the_examples_in_the_documentation_run():
    for module in (arrivals_module, replay_module):
        failed, tried = doctest.testmod(module)
        assert (failed, tried > 0) == (0, True)
