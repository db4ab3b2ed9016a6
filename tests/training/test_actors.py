"""Actors in this process: what they bring, what they are told, and what comes of those that fail. On Ray itself:
test_actors_on_ray.py."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from ray_in_process import HANGS, ActorDiedError, RayInProcess
from runs_with_actors import UNLOOKED, planned, source_of
from tensordict import TensorDictBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl import ModeNoise, extras
from worldloom_rl.commands.faults import explain
from worldloom_rl.keys import STREAM
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.recipes.options import DreamerV3RunConfig, TDMPC2RunConfig
from worldloom_rl.training import actor, actors, collected_by_actors, loop, trust
from worldloom_rl.training.checkpoint import load_state, save_state
from worldloom_rl.training.collected_by_actors import CollectedByActors
from worldloom_rl.training.run_directory import RunDirectory

SMALL = ("batch_size=2", "batch_length=4", "updates_per_step=0.25")


class Failing(PendulumEnv):
    def step(self, action: object) -> tuple[object, ...]:
        raise KeyError("the robot is gone")


gymnasium.register("FailingPendulum-v0", Failing, max_episode_steps=10)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> RayInProcess:
    """Stands for Ray in whatever is made afterwards."""
    made = RayInProcess()

    @contextmanager
    def cluster(address: str | None, **options: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(ray=made)

    monkeypatch.setattr(collected_by_actors, "cluster", cluster)
    monkeypatch.setattr(actor.faulthandler, "enable", lambda file: None)
    monkeypatch.setattr(extras, "find_spec", lambda module: module)  # installed, as far as options can tell
    return made


def come(source: CollectedByActors, number: int) -> list[TensorDictBase]:
    """So many batches."""
    found: list[TensorDictBase] = []
    while len(found) < number:
        batch = source.collect()
        source.add(batch)
        found += [batch] if batch.batch_size.numel() else []
    return found


def test_a_run_with_actors_learns_from_streams_that_stay_linked_and_goes_on(
    ray: RayInProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[TensorDictBase] = []

    class Watched(tdmpc2.TDMPC2Recipe):
        def update(self, state: tdmpc2.State) -> dict[str, torch.Tensor]:
            seen.append(state.source.replay.sample())  # type: ignore[attr-defined]
            return super().update(state)

    recipe = Watched()
    directory = loop.train(recipe, planned(tmp_path))
    result = json.loads((directory.path / "result.json").read_text())
    assert result["agent_steps"] == 140
    assert result["updates"] == 35
    windows = torch.cat(seen)
    moved = windows["observation"].diff(dim=1).norm(dim=-1)
    assert moved[~windows["is_init"][:, 1:].squeeze(-1)].max() < 2.0  # a pendulum moves by less in a step
    out = capsys.readouterr().out
    assert "actors 2  lag " in out
    assert "waited 0." in out
    assert not (directory.path / "actors").exists()  # nothing to tell

    loop.resume(recipe, RunDirectory(directory.path), steps=160)
    out = capsys.readouterr().out
    assert "with new episodes, because the actors' environments are in processes of their own" in out
    assert "not bit for bit" in out
    result = json.loads((directory.path / "result.json").read_text())
    assert (result["agent_steps"], result["updates"]) == (160, 40)


def test_streams_are_told_apart_and_returns_are_theirs(ray: RayInProcess, tmp_path: Path) -> None:
    with source_of(planned(tmp_path)) as source:
        batches = come(source, 8)
        assert [batch[STREAM][:, 0].tolist() for batch in batches] == [[0, 1], [2, 3]] * 4  # they take turns
        assert source.replay.storage[:][STREAM].unique().tolist() == [0, 1, 2, 3]
        # Three batches are an episode of 15 steps.
        by_actor = [torch.cat(batches[first:6:2], -1)["next", "reward"].sum((-2, -1)) for first in (0, 1)]
        assert source.episode_returns == pytest.approx(torch.cat(by_actor).tolist())


def test_actors_draw_differently_and_share_the_random_steps(ray: RayInProcess, tmp_path: Path) -> None:
    starts: list[actor.Start] = []

    class Noted(actor.Actor):
        def _collect(self, start: actor.Start) -> Iterator[TensorDictBase]:
            starts.append(start)
            return super()._collect(start)

    actors_kind, actors.Actor = actors.Actor, Noted  # type: ignore[misc]
    try:
        with source_of(planned(tmp_path)) as source:
            come(source, 3)
            # What goes on elsewhere, after 30 steps of 100.
            folder = tmp_path / "saved"
            folder.mkdir()
            saved = source.save(folder)
        with source_of(planned(tmp_path)) as again:
            again.load(folder, saved, seed=0)
            come(again, 2)
    finally:
        actors.Actor = actors_kind  # type: ignore[misc]
    assert [start.random_steps for start in starts] == [50, 50, 40, 40]  # in whole batches
    assert len({start.seed for start in starts}) == 4


def test_what_acts_is_the_loops_own_policy_and_new_weights_act_two_batches_later(
    ray: RayInProcess, tmp_path: Path
) -> None:
    config = DreamerV3RunConfig(
        env="Pendulum-v1", time_limit=15, overrides=SMALL, num_envs=2, actors=2, actor_steps=6, actor_updates=1,
        run_directory=str(tmp_path),
    )  # fmt: skip
    state = dreamerv3.make_state(config)
    source, model = state.source, state.model
    assert isinstance(source, CollectedByActors)
    for each in ray.made:
        each.actor._work.model.noise = ModeNoise()
    model.noise = ModeNoise()

    def acted(batch: TensorDictBase) -> bool:
        """Whether the learner's policy does what was done, latents and actions."""
        before, now = batch[:, :-1], batch[:, 1:]
        given = now.select("observation", "is_init").update(before["next"].select("latent"))
        given = given.set("previous_action", before["action"])
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            found = model.make_policy()(given)
        acted = [("action", now), *((key, now["next"]) for key in model.latent_keys)]
        return all(torch.allclose(found[key], value[key], atol=1e-6) for key, value in acted)

    assert all(map(acted, come(source, 4)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    source._updates += 1
    late = [acted(batch) for batch in come(source, 8)]
    assert late[0] is False  # they were asked for before
    assert all(late[4:])
    state.close()


def test_an_actor_is_sent_weights_only_when_they_are_new(ray: RayInProcess, tmp_path: Path) -> None:
    sent: list[int] = []
    with source_of(planned(tmp_path, actor_updates=10)) as source:
        send = source.actors.send
        source.actors.send = lambda weights, updates: (sent.append(updates), send(weights, updates))  # type: ignore[method-assign, assignment, func-returns-value]
        come(source, 12)
        for updates in range(25):
            source.sample()
            if updates % 2:
                come(source, 1)
        assert sent == [0, 10, 20]
        assert source.measures(1.0)["lag"] == 25 - source.actors.played
        assert source.actors.played in (10, 20)


def dying(numbers: set[int]) -> Callable[[int, str], object]:
    return lambda number, method: ActorDiedError("it is no more") if number in numbers and method == "play" else None


def test_an_actor_that_dies_is_replaced_and_the_others_go_on(ray: RayInProcess, tmp_path: Path) -> None:
    ray.instead = dying({1})
    with source_of(planned(tmp_path)) as source:
        streams = {int(batch[STREAM][0, 0]) for batch in come(source, 6)}
        assert streams == {0, 2}
        assert source.news() == ["Actor 1 died, killed or out of memory: a new one takes its place and begins new "
                                 "episodes."]  # fmt: skip
        assert source.news() == []
        assert len(ray.made) == 3
        assert ray.made[1] in ray.ended
    assert "it is no more" in (tmp_path / "run" / "actors" / "1.txt").read_text()


def test_three_deaths_in_a_row_end_the_run_with_the_file_that_tells_why(ray: RayInProcess, tmp_path: Path) -> None:
    ray.instead = dying({1, 2, 3})
    with source_of(planned(tmp_path)) as source, pytest.raises(ChildProcessError) as told:
        come(source, 20)
    assert str(told.value).startswith("Actor 1 died, killed or out of memory, and so did 2 before it")
    file = Path(str(told.value).rpartition(": ")[2].removesuffix("."))
    assert file.read_text().count("it is no more") == 3
    assert explain(told.value) == (f"worldloom: {told.value}", 2)


def test_deaths_with_batches_between_do_not_add_up(ray: RayInProcess, tmp_path: Path) -> None:
    played: dict[int, int] = {}

    def second(number: int, method: str) -> object:
        """Each that stands in the first place dies at its second batch."""
        played[number] = played.get(number, 0) + (method == "play")
        return ActorDiedError("again") if number != 1 and played[number] > 1 else None

    ray.instead = second
    with source_of(planned(tmp_path)) as source:
        come(source, 16)
        assert len(ray.made) > 5


def test_an_actor_that_hangs_is_ended_and_replaced_after_the_deadline(
    ray: RayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, killed = [0.0], []
    monkeypatch.setattr(actors.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(actors.os, "kill", lambda process, number: killed.append((process, number)))
    ray.instead = lambda number, method: {(0, "play"): HANGS, (0, "begin"): 2**30}.get((number, method))
    with source_of(planned(tmp_path, actor_patience=60.0)) as source:
        come(source, 4)
        assert len(ray.made) == 2
        now[0] += 61.0
        streams = {int(batch[STREAM][0, 0]) for batch in come(source, 4)}
        assert killed == [(2**30, signal.SIGKILL)]
        assert streams == {0, 2}
        assert "gave no batch for 60 s (--actor-patience)" in source.news()[0]


def test_whoever_waits_long_is_told_and_nothing_is_counted(
    ray: RayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(actors.time, "monotonic", lambda: now[0])
    ray.instead = lambda number, method: HANGS  # a cluster without room
    state = tdmpc2.make_state(planned(tmp_path))
    for _ in range(3):
        now[0] += 50.0
        assert loop.step(tdmpc2.RECIPE, state) == "seeding"
    assert (state.agent_steps, state.updates_due) == (0, 0.0)
    assert list(state.source.news()) == ["No actor gave a batch for 60 s; 0 of 2 are up."]
    assert len(ray.made) == 2  # they wait for room, and are not replaced
    state.close()


def test_what_an_environment_raises_is_raised_as_it_is(ray: RayInProcess, tmp_path: Path) -> None:
    config = planned(tmp_path, env="FailingPendulum-v0", **UNLOOKED)
    with source_of(config) as source, pytest.raises(KeyError, match="the robot is gone") as raised:
        come(source, 1)
    assert "line 7 of the robot" in str(raised.value.__cause__)
    told, status = explain(raised.value)
    assert status == 2
    assert told.startswith("worldloom: an actor's environment or policy raised KeyError: 'the robot is gone'.")
    assert "line 7 of the robot" in Path(told.rpartition(": ")[2]).read_text()


def test_the_counts_of_a_saved_run_come_back_and_its_actors_begin_with_its_weights(
    ray: RayInProcess, tmp_path: Path
) -> None:
    config = planned(tmp_path)
    state = tdmpc2.make_state(config)
    while state.updates < 5:
        loop.step(tdmpc2.RECIPE, state)
    folder = tmp_path / "saved"
    folder.mkdir()
    save_state(tdmpc2.RECIPE, state, folder)
    state.close()
    ray.made.clear()
    again = load_state(tdmpc2.RECIPE, config, folder)
    assert isinstance(again.source, CollectedByActors)
    assert again.source._updates == again.updates == 5
    assert again.source.episode_returns == state.source.episode_returns
    assert again.source.rows == state.source.rows
    come(again.source, 2)
    for each in ray.made:
        weights = each.actor._work.model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in state.model.state_dict().items())
    again.close()


def test_what_actors_are_told_can_be_sent_to_a_process(ray: RayInProcess, tmp_path: Path) -> None:
    with source_of(planned(tmp_path)):
        work = pickle.loads(pickle.dumps(ray.made[0].actor._work))
    assert work.make_env(0).batch_size == (2,)
    assert work.model.num_parameters() > 0


@pytest.mark.parametrize("family", [TDMPC2RunConfig, DreamerV3RunConfig])
def test_options_that_do_not_fit_are_refused_by_name(
    family: type[TDMPC2RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="ray 'auto' is where actors run, but there are none"):
        family(env="Pendulum-v1", ray="auto")
    with pytest.raises(ValueError, match="actors 2 would collect, but recorded data"):
        family(env="Pendulum-v1", actors=2, data=("runs/x",))
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    with pytest.raises(ImportError, match=r"Actors run on Ray: pip install 'worldloom-rl\[ray\]'"):
        family(env="Pendulum-v1", actors=2)
    assert family(env="Pendulum-v1").streams == 1  # nothing is asked for where there are none


def test_a_run_of_somebody_else_joins_no_cluster_unseen(tmp_path: Path) -> None:
    config = dataclasses.asdict(TDMPC2RunConfig(env="Pendulum-v1")) | {"actors": 2, "ray": "evil.example:6379"}
    with pytest.raises(ValueError, match=r"joins the Ray at evil\.example:6379, which may run any code"):
        trust.require_trust(tmp_path, config)
    (tmp_path / "actors").mkdir()
    os.symlink("/etc/hostname", tmp_path / "actors" / "0.txt")
    with pytest.raises(ValueError, match=r"actors/0\.txt, which is a link to"):
        trust.require_trust(tmp_path, {**config, "ray": None})
