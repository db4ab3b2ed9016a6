"""Episodes shorter than what is learned from at once: said before the first step, or when the rows have come."""

from __future__ import annotations

from typing import Any

import pytest

from worldloom_rl.data import Replay
from worldloom_rl.recipes import jepa, tdmpc2
from worldloom_rl.recipes.options import JEPARunConfig, TDMPC2RunConfig
from worldloom_rl.training.recipe import RunState


def test_episodes_that_cannot_hold_a_window_are_refused_before_the_first_step() -> None:
    config = TDMPC2RunConfig(env="Pendulum-v1", time_limit=2)
    with pytest.raises(ValueError, match=r"Episodes of 2 agent steps are shorter than the 3 .*--overrides horizon=2"):
        tdmpc2.make_state(config)
    long_enough = TDMPC2RunConfig(env="Pendulum-v1", time_limit=2, overrides=("horizon=2",))
    tdmpc2.make_state(long_enough).close()
    short = JEPARunConfig(env="worldloom/PointRoom-v0", time_limit=2, collect=50)
    with pytest.raises(ValueError, match=r"Episodes of 2 agent steps are shorter .*--overrides history=1"):
        jepa.make_state(short)


def test_episodes_that_end_too_early_by_themselves_are_told_when_they_are_sampled() -> None:
    class Empty:
        def sample(self) -> Any:
            return Replay(capacity=20, window=4, batch_size=2, by="episode").sample()

    config = TDMPC2RunConfig(env="Bandit-v0")
    state: Any = RunState(config=config, model=None, source=Empty(), learning_starts=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"episodes of Bandit-v0 are too short .*no window of 4 rows.*horizon=1"):
        state.sample()
