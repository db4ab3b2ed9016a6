"""DreamerV3's policy in stock collectors: what it carried equals what `observe` finds in the rows sampled back."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.envs import EnvBase, GymEnv, ParallelEnv, SerialEnv
from torchrl.modules import set_recurrent_mode

from worldloom_rl import ModeNoise
from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.keys import INDEX
from worldloom_rl.models.dreamerv3 import DreamerV3, make_policy
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.specs.environment import specs_of

STEPS = 30  # of each environment
NAMES = pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])


def makers(name: str, count: int) -> list[partial[EnvBase]]:
    """Environments whose episodes end at different times."""
    return [partial(GymEnv, name, max_episode_steps=steps) for steps in (7, 11)[:count]]


def build(name: str) -> DreamerV3:
    torch.manual_seed(0)
    model = DreamerV3(find_preset("dreamerv3:tiny")[1], *specs_of(GymEnv(name)))
    with torch.no_grad():
        for parameter in model.behavior.actor.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # actions that differ from row to row
    model.noise = ModeNoise()
    return model


def collect(model: DreamerV3, env: EnvBase) -> Replay:
    env.set_seed(0)
    streams = max(1, env.batch_size.numel())
    collector = Collector(
        env,
        make_policy(model),
        frames_per_batch=5 * streams,
        total_frames=STEPS * streams,
        auto_register_policy_transforms=True,
    )
    arrivals = Arrivals(model.observation_keys, model.action_keys, model.latent_keys)
    replay = Replay(capacity=400, window=20, batch_size=64, by="online", generator=torch.Generator().manual_seed(0))
    for transitions in collector:
        replay.extend(arrivals(transitions))
    collector.shutdown()
    return replay


def observed(model: DreamerV3, replay: Replay) -> tuple[Tensor, Tensor]:
    """Latents of the rows of windows by `observe` from their first row's, and those that acting had stored."""
    rows = replay.sample()
    assert rows["is_init"].sum(1).max() >= 2  # windows hold several episodes
    window = rows[:, 1:].clone()
    for key in model.latent_keys:
        window[key][:, 0] = rows[key][:, 0]
    with set_recurrent_mode(True), torch.no_grad():
        latent = model.observe(window)["latent", "deterministic"]
    stored = rows["latent", "deterministic"][:, 1:]
    kept = ~(rows["truncated"] | rows["terminated"])[:, 1:].squeeze(-1)
    # The newest row of a stream may still lack its latent, which comes with its own transition.
    kept[:, -1] &= stored[:, -1].abs().sum(-1) > 0
    assert kept.sum() > 300
    return latent[kept], stored[kept]


@NAMES
@pytest.mark.parametrize("count", [1, 2])
def test_acting_latents_equal_observe_over_the_rows_sampled_back(name: str, count: int) -> None:
    model = build(name)
    env = SerialEnv(2, makers(name, 2)) if count == 2 else makers(name, 1)[0]()
    torch.testing.assert_close(*observed(model, collect(model, env)), rtol=1e-4, atol=1e-4)


@NAMES
@pytest.mark.process
@pytest.mark.usefixtures("fork_server")
def test_acting_in_parallel_environments_carries_each_ones_latent(name: str) -> None:
    model = build(name)
    torch.testing.assert_close(*observed(model, collect(model, ParallelEnv(2, makers(name, 2)))), rtol=1e-4, atol=1e-4)


@pytest.mark.process
@pytest.mark.usefixtures("fork_server")
def test_process_collectors_act_with_the_weights_they_are_sent() -> None:
    model = build("Pendulum-v1")
    collector = MultiSyncCollector(
        makers("Pendulum-v1", 2),
        make_policy(model),
        frames_per_batch=16,
        total_frames=48,
        auto_register_policy_transforms=True,
    )
    batches = iter(collector)
    before = next(batches)["latent", "deterministic"].abs().max()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        for parameter in model.rssm.parameters():
            parameter.zero_()
    collector.update_policy_weights_()
    next(batches)
    after = next(batches)["latent", "deterministic"].abs().max()
    collector.shutdown()
    assert before > 0.01
    assert after < 1e-3  # a memory whose weights are all zero shrinks by a quarter of itself at every step


def test_latents_written_back_replace_those_of_live_rows_only() -> None:
    model = build("CartPole-v1")
    replay = collect(model, makers("CartPole-v1", 1)[0]())
    batch = replay.sample(4)
    rows = batch[:, 1:].select("replay")
    rows["latent", "deterministic"] = torch.full_like(batch["latent", "deterministic"][:, 1:], 0.5)
    assert replay.write_back(rows) == len(batch[INDEX][:, 1:].unique())
    again = replay.sample(64)
    written = torch.isin(again[INDEX], rows[INDEX])
    assert (again["latent", "deterministic"][written] == 0.5).all()
    assert (again["latent", "deterministic"][~written] != 0.5).any()
