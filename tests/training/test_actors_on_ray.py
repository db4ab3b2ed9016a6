"""Actors in processes of Ray on this machine's loopback: killed, stopped and failing ones; nothing is left running."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs_with_actors import UNLOOKED, planned, source_of
from tensordict import TensorDictBase

from worldloom_rl.keys import STREAM
from worldloom_rl.recipes import tdmpc2
from worldloom_rl.training import collected_by_actors, loop
from worldloom_rl.training.collected_by_actors import CollectedByActors
from worldloom_rl.training.ray_tasks import Cluster, _descendants, _runs, cluster

pytest.importorskip("ray")
pytestmark = pytest.mark.process

SECONDS = 240.0  # for anything that is waited for
MODULE = """
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

class Failing(PendulumEnv):
    def step(self, action):
        raise OSError(5, "the robot is gone")

gymnasium.register("FarFailing-v0", Failing, max_episode_steps=10)
"""


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One Ray for all tests here, started where a module lies that its processes import too."""
    before, directory = Path.cwd(), tmp_path_factory.mktemp("here")
    (directory / "far_failing.py").write_text(MODULE)
    os.chdir(directory)
    sys.path.insert(0, str(directory))
    children = _descendants(os.getpid())
    try:
        with cluster(None, who="Actors", option="--ray", store=None) as found:
            assert found.ray.util.get_node_ip_address().startswith("127.")
            yield found
        left = [process for process in _descendants(os.getpid()) - children if _runs(process)]
        commands = [Path(f"/proc/{process}/cmdline").read_text() for process in left]
        assert [command for command in commands if "resource_tracker" not in command] == []  # that is this process' own
    finally:
        os.chdir(before)
        sys.path.remove(str(directory))


@pytest.fixture(autouse=True)
def _shared(connected: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def again(address: str | None, **options: object) -> Iterator[Cluster]:
        yield connected

    monkeypatch.setattr(collected_by_actors, "cluster", again)


def collect_until(source: CollectedByActors, condition: Callable[[], object]) -> list[TensorDictBase]:
    """Batches until it holds; the condition is looked at after each."""
    begin, found = time.monotonic(), []
    while not condition():
        assert time.monotonic() - begin < SECONDS
        batch = source.collect()
        source.add(batch)
        found += [batch] if batch.batch_size.numel() else []
    return found


def up(source: CollectedByActors) -> Callable[[], bool]:
    """Whether every actor gave a batch."""
    return lambda: all(place.played >= 0 for place in source.actors._places)


def test_two_actors_train_pendulum_while_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    state = tdmpc2.make_state(planned(tmp_path, steps=300))
    source, news, until = state.source, [], time.monotonic() + SECONDS
    assert isinstance(source, CollectedByActors)

    def learn(condition: Callable[[], object]) -> None:
        while not condition():
            assert time.monotonic() < until
            loop.step(tdmpc2.RECIPE, state)
            news.extend(source.news())

    begin = time.monotonic()
    learn(lambda: up(source)() and state.updates > 0)
    took = time.monotonic() - begin
    os.kill(source.actors.processes[0], signal.SIGKILL)
    killed, updates = time.monotonic(), state.updates
    learn(lambda: source.actors._starts == 3 and up(source)())
    assert time.monotonic() - killed < max(30.0, 3 * took)  # the latter where the machine is busy with other work
    assert state.updates > updates
    assert news == ["Actor 0 died, killed or out of memory: a new one takes its place and begins new episodes."]
    assert source.replay.storage[: source.rows][STREAM].unique().tolist() == [0, 1, 2, 3]
    windows = state.sample()
    moved = windows["observation"].diff(dim=1).norm(dim=-1)
    assert moved[~windows["is_init"][:, 1:].squeeze(-1)].max() < 2.0  # a pendulum moves by less in a step
    state.close()


def test_an_actor_that_was_stopped_is_ended_and_replaced_after_the_deadline(tmp_path: Path) -> None:
    with source_of(planned(tmp_path, steps=300, actor_patience=20.0)) as source:
        collect_until(source, up(source))
        stopped = source.actors.processes[1]
        os.kill(stopped, signal.SIGSTOP)
        batches = collect_until(source, lambda: source.actors._starts == 3 and up(source)())
        assert {int(batch[STREAM][0, 0]) for batch in batches} >= {0}
        assert source.news() == ["Actor 1 gave no batch for 20 s (--actor-patience): a new one takes its place and "
                                 "begins new episodes."]  # fmt: skip
        assert not Path(f"/proc/{stopped}").exists() or ") Z" in Path(f"/proc/{stopped}/stat").read_text()


def test_an_error_in_an_actors_environment_is_raised_as_it_is(tmp_path: Path) -> None:
    told = planned(tmp_path, steps=300, env="far_failing:FarFailing-v0", actors=1, **UNLOOKED)
    with source_of(told) as source, pytest.raises(OSError, match="the robot is gone") as raised:
        collect_until(source, lambda: False)
    assert raised.type is OSError
    assert "far_failing.py" in str(raised.value.__cause__)
