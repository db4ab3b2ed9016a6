"""Sources of rows: recorded ones, collected ones, and a share of each in every batch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.data.laws import EpisodeLaw
from worldloom_rl.data.recording import Excerpt, Recording
from worldloom_rl.envs import make_env
from worldloom_rl.keys import STREAM
from worldloom_rl.noise import ModeNoise
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state, save_state
from worldloom_rl.training.clock import AGENT_STEPS, UPDATES
from worldloom_rl.training.mixed import Mixed
from worldloom_rl.training.recorded import Recorded, split
from worldloom_rl.training.source import Collected

OVERRIDES = (
    "num_samples=8", "num_elites=2", "num_policy_trajectories=2", "iterations=1", "batch_size=8",
    "updates_per_step=0.5",
)  # fmt: skip
MARK = 77.0  # the reward of every recorded step


class Kept(Recording):
    """Episodes of random actions in Pendulum, kept in memory, whose rewards tell that they are recorded."""

    def __init__(self, episodes: int = 3, steps: int = 15, mark: float = MARK) -> None:
        env = make_env("Pendulum-v1", time_limit=steps, seed=0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._episodes = [env.rollout(steps) for _ in range(episodes)]
        super().__init__("kept", *specs_of(env), [steps + 1] * episodes)
        env.close()
        self._mark = mark

    def files(self) -> list[Path]:
        return []

    def read(self, episode: int, start: int, stop: int) -> Excerpt:
        part = self._episodes[episode][start:stop]
        observation = torch.cat([part["observation"][:1], part["next", "observation"]])
        reward = torch.full((stop - start,), self._mark)
        return Excerpt({"observation": observation}, {"action": part["action"] + self._mark - MARK}, reward)


def test_rows_of_the_loops_collector_hold_the_latent_of_their_own_observation(tmp_path: Path) -> None:
    settings = dreamerv3.Config(
        env="Pendulum-v1", time_limit=5, num_envs=2, overrides=("batch_size=2", "batch_length=4"),
        run_directory=str(tmp_path),
    )  # fmt: skip
    state = dreamerv3.make_state(settings)
    model, source = state.model, state.source
    assert isinstance(source, Collected)
    model.noise = ModeNoise()
    for _ in range(12):
        source.add(source.collect())
    first = [*model.observation_keys, *model.previous_action_keys, "is_init", "truncated", *model.latent_keys, STREAM]
    rows = source.entries(*first)
    state.close()
    for stream in range(2):
        mine = rows[rows[STREAM] == stream]
        for before, row in pairwise(mine[:-1]):  # the last one gets its latent with the next batch
            if row["is_init"] or row["truncated"]:
                continue
            given = row.exclude("latent").update(before.select("latent")).unsqueeze(0)
            with torch.no_grad():
                found = model.make_policy()(given)
            for key in model.latent_keys:
                assert torch.allclose(found[key][0], row[key], atol=1e-5), (stream, key)


def config(directory: Path) -> tdmpc2.Config:
    return tdmpc2.Config(
        env="Pendulum-v1", time_limit=15, steps=60, seed_steps=30, overrides=OVERRIDES, num_envs=2,
        run_directory=str(directory),
    )  # fmt: skip


class Demonstrated(tdmpc2.TDMPC2Recipe):
    """TD-MPC2 that learns from recorded rows too: nothing but the source is another."""

    def __init__(self, recording: Recording, share: float = 0.25) -> None:
        self.recording, self.share = recording, share

    def make_state(self, config: tdmpc2.Config) -> tdmpc2.State:
        state = super().make_state(config)
        collected, numbers = state.source, state.model.config
        assert isinstance(collected, Collected)
        arrivals = Arrivals(state.model.observation_keys, state.model.action_keys)
        replay = Replay(
            capacity=100, window=numbers.horizon + 1, batch_size=numbers.batch_size, by=EpisodeLaw,
            generator=torch.Generator().manual_seed(config.seed + 1),
        )  # fmt: skip
        recorded = Recorded(replay, arrivals, self.recording, range(len(self.recording.lengths)))
        state.source = Mixed(recorded, collected, share=self.share, batch_size=numbers.batch_size)
        return state


def is_recorded(batch: TensorDictBase) -> Tensor:
    """[B] whether a window's rewards are those of recorded rows; its first row may be an episode's first."""
    return (batch["reward"][:, 1:] == MARK).flatten(1).all(1)


def learn(recipe: Demonstrated, state: tdmpc2.State, updates: int) -> list[Tensor]:
    losses = []
    while state.updates < updates:
        before = state.updates
        loop.step(recipe, state)
        losses += [state.metrics["loss"]] if state.updates > before else []
    return losses


def test_a_share_of_each_batch_is_recorded_and_stands_first(tmp_path: Path) -> None:
    recipe = Demonstrated(Kept())
    state = recipe.make_state(config(tmp_path))
    losses = learn(recipe, state, 4)
    assert all(bool(loss.isfinite()) for loss in losses)
    for _ in range(5):
        batch = state.sample()
        assert batch.shape == (8, state.model.config.horizon + 1)
        assert is_recorded(batch).tolist() == [True] * 2 + [False] * 6
    source = state.source
    assert isinstance(source, Mixed)
    assert source.rows == source.recorded.rows + source.collected.rows == len(source.entries("reward"))
    assert source.recorded.rows == 3 * 16
    assert source.bytes > source.collected.bytes
    assert len(source.episode_returns) == state.agent_steps // 30 * 2
    state.close()


def test_what_is_written_back_reaches_the_rows_it_belongs_to(tmp_path: Path) -> None:
    recipe = Demonstrated(Kept())
    state = recipe.make_state(config(tmp_path))
    learn(recipe, state, 1)
    source = state.source
    assert isinstance(source, Mixed)
    rows = state.sample().select("replay", "reward")
    rows["reward"] = torch.where(is_recorded(rows)[:, None, None], -1.0, -2.0).expand(rows["reward"].shape).clone()
    source.write_back(rows)
    for replay, mark, part in (
        (source.recorded.replay, -1.0, rows[:2]), (source.collected.replay, -2.0, rows[2:]),
    ):  # fmt: skip
        stored = replay.storage[:]["reward"].flatten()
        slots = part["replay", "index"].unique()
        assert (stored[slots] == mark).all()
        assert int((stored == mark).sum()) == len(slots)
    with pytest.raises(ValueError, match="The last batch had 8 windows, but 3 are written back"):
        source.write_back(rows[:3])
    state.close()


def test_a_mixed_run_goes_on_bit_for_bit_and_only_with_the_same_recording(tmp_path: Path) -> None:
    recipe = Demonstrated(Kept())
    (tmp_path / "saved").mkdir()
    state = recipe.make_state(config(tmp_path))
    learn(recipe, state, 3)
    save_state(recipe, state, tmp_path / "saved")
    expected = learn(recipe, state, 20)
    again = load_state(recipe, config(tmp_path), tmp_path / "saved")
    assert again.resumed == f"Goes on after {again.agent_steps} steps and 3 updates, in the middle of its episodes."
    found = learn(recipe, again, 20)
    assert torch.equal(torch.stack(found), torch.stack(expected))
    for one in (state, again):
        one.close()
    with pytest.raises(ValueError, match="kept holds other episodes than when the run began"):
        load_state(Demonstrated(Kept(mark=MARK + 1)), config(tmp_path), tmp_path / "saved")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.96, 1.0, -1.0])
def test_a_share_that_leaves_none_of_a_kind_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves no recorded or no collected one"):
        Demonstrated(Kept(), share).make_state(config(tmp_path))


def test_recorded_rows_are_all_there_and_make_every_step_an_update() -> None:
    recording = Kept()
    replay = Replay(capacity=100, window=4, batch_size=3, by="within")
    source = Recorded(replay, Arrivals(["observation"], ["action"]), recording, [0, 2])
    assert source.collect() is None
    assert not source.collects
    assert source.rows == 2 * 16
    assert is_recorded(source.sample()).all()
    assert str(source) == "2 episodes of kept"
    with pytest.raises(RuntimeError, match="nothing is added"):
        source.add(recording._episodes[0])
    with pytest.raises(ValueError, match="count updates"):
        AGENT_STEPS.check(100, 0, collects=source.collects)
    UPDATES.check(100, 0, collects=source.collects)


def test_a_part_of_the_episodes_is_held_out_and_none_is_lost() -> None:
    recording = Kept(episodes=10, steps=2)
    learned, held_out = split(recording, 0.3, seed=0)
    assert len(held_out) == 3
    assert sorted(learned + held_out) == list(range(10))
    assert split(recording, 0.3, seed=0) == (learned, held_out) != split(recording, 0.3, seed=1)
    assert split(recording, 0.0, seed=0)[1] == []
