"""TD-MPC2 of several tasks, from recorded episodes and from environments, with budgets of seconds."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_tasks import TASKS, TIME_LIMIT, InMemory, recorded
from tensordict import TensorDictBase

from worldloom_rl import AutoWorldModel, cli
from worldloom_rl.commands.trained import newest, of_one_task
from worldloom_rl.data import Episodes, join
from worldloom_rl.pretrained.model_card import model_card
from worldloom_rl.recipes import tdmpc2, tdmpc2_offline
from worldloom_rl.recipes.tdmpc2 import Config, State
from worldloom_rl.report.examination import VALUE_HEADS
from worldloom_rl.report.run_results import read_result
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state, save_state
from worldloom_rl.training.run_directory import RunDirectory

SMALL = (
    "encoder_dim=8", "mlp_dim=8", "latent_dim=8", "task_dim=4", "num_bins=11", "num_samples=8", "num_elites=2",
    "num_policy_trajectories=2", "iterations=1", "batch_size=4", "min_seed_steps=24",
)  # fmt: skip


def small(run_directory: Path, **changes: object) -> Config:
    values: dict[str, object] = {
        "tasks": TASKS,
        "overrides": SMALL,
        "time_limit": TIME_LIMIT,
        "steps": 6,
        "eval_every": 4,
        "eval_episodes": 2,
        "final_eval_episodes": 2,
        "checkpoint_every": 3,
        "run_directory": str(run_directory),
    }
    return Config(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sources() -> dict[str, InMemory]:
    return {name: recorded(name) for name in TASKS}


@pytest.fixture(autouse=True)
def _open(sources: dict[str, InMemory], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data NAME` is the recording of that name."""

    def open_episodes(data: tuple[str, ...], tasks: tuple[str, ...], **_: object) -> Episodes:
        return join([sources[name] for name in data], tasks)

    monkeypatch.setattr(tdmpc2_offline, "open_episodes", open_episodes)


@pytest.fixture(scope="module")
def run(sources: dict[str, InMemory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDirectory]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tdmpc2_offline, "open_episodes", lambda data, tasks, **_: join([sources[n] for n in data], tasks))
        yield tdmpc2_offline.train(small(tmp_path_factory.mktemp("offline") / "run", data=TASKS))


def test_a_run_learns_from_recordings_and_is_judged_in_every_task(run: RunDirectory) -> None:
    result = json.loads((run.path / "result.json").read_text())
    assert (result["updates"], result["agent_steps"], result["clock"]) == (6, 0, "updates")
    last = result["evaluations"][-1]
    assert last["tasks"] == [task for task in TASKS for _ in range(2)]
    assert last["lengths"] == [TIME_LIMIT] * 4
    means = {task: sum(last["returns"][2 * n : 2 * n + 2]) / 2 for n, task in enumerate(TASKS)}
    assert last["statistics"] == {f"return/{task}": pytest.approx(mean) for task, mean in means.items()}
    table = list(csv.DictReader((run.path / "metrics.csv").read_text().splitlines()))
    assert float(table[-1][f"evaluation/return/{TASKS[1]}"]) == pytest.approx(means[TASKS[1]])
    assert (run.path / "curve.png").is_file()
    assert read_result(run.path).task == f"{TASKS[0]}+{TASKS[1]} with a time limit of {TIME_LIMIT}"
    assert f"Mean return on `{TASKS[0]}+{TASKS[1]}`" in model_card("a", model_config(run), 1, result)


def model_config(run: RunDirectory) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.checkpoints.latest() / "model" / "config.json").read_text())
    return content


def test_the_model_of_a_run_keeps_its_tasks(run: RunDirectory) -> None:
    model = AutoWorldModel.from_pretrained(run.checkpoints.latest() / "model")
    assert model.tasks.names == TASKS
    assert model.tasks.observation_widths == (3, 2)
    assert model.config.discount == (0.95, 0.95)
    assert [tuple(leaf.shape) for leaf in model.observation_spec.values()] == [(3,), ()]


def advance(recipe: tdmpc2.TDMPC2Recipe, state: State, updates: int) -> None:
    goal = state.updates + updates
    while state.updates < goal:
        loop.step(recipe, state)


def same(left: State, right: State) -> None:
    weights = right.model.state_dict()
    for name, value in left.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert left.metrics.keys() == right.metrics.keys()
    assert all(torch.equal(value, right.metrics[name]) for name, value in left.metrics.items())


RECIPES = {"offline": (tdmpc2_offline.RECIPE, TASKS), "online": (tdmpc2.RECIPE, ())}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_resumed_run_of_several_tasks_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    recipe, data = RECIPES[kind]
    config = small(tmp_path, data=data, seed_steps=26)  # of two environments, in the middle of their second episode
    state = recipe.make_state(config)
    advance(recipe, state, 4)
    assert (state.model.task_embedding.weight.grad != 0).any()  # what the policy's loss left over
    folder = tmp_path / "saved"
    folder.mkdir()
    save_state(recipe, state, folder)
    advance(recipe, state, 4)
    resumed = load_state(recipe, config, folder)
    advance(recipe, resumed, 4)
    same(state, resumed)
    state.close()
    resumed.close()


def test_other_recordings_than_the_run_began_with_are_refused(
    run: RunDirectory, sources: dict[str, InMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = recorded(TASKS[0], episodes=3)
    monkeypatch.setattr(
        tdmpc2_offline, "open_episodes", lambda data, tasks, **_: join([fewer, sources[TASKS[1]]], tasks)
    )
    config = loop.read_config(tdmpc2_offline.RECIPE, run)
    with pytest.raises(ValueError, match="holds other episodes than when the run began; put those back"):
        load_state(tdmpc2_offline.RECIPE, config, run.checkpoints.latest())


def test_one_agent_collects_in_all_tasks_side_by_side(tmp_path: Path) -> None:
    state = tdmpc2.make_state(small(tmp_path, num_envs=2, seed_steps=10**6))
    loop.step(tdmpc2.RECIPE, state)
    assert state.agent_steps == 4
    rows = state.source.entries("task", "observation", "is_init")
    assert sorted(rows["task"].tolist()) == [0] * 4 + [1] * 4
    assert (rows["observation"][rows["task"] == 1][:, 2] == 0).all()
    state.close()


def test_episodes_of_all_tasks_are_planned_for_in_one_call(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    config = loop.read_config(tdmpc2_offline.RECIPE, run)
    model = AutoWorldModel.from_pretrained(run.checkpoints.latest() / "model")
    policy = model.make_policy()
    batches: list[list[int]] = []
    read = policy.forward

    def noted(td: TensorDictBase) -> TensorDictBase:
        batches.append(td["task"].tolist())
        return read(td)

    monkeypatch.setattr(policy, "forward", noted)
    monkeypatch.setattr(tdmpc2_offline.RECIPE, "make_policy", lambda model: policy)
    found = loop.assess(tdmpc2_offline.RECIPE, config, model, episodes=3, agent_steps=0, seed=5)
    assert batches == [[0, 0, 0, 1, 1, 1]] * TIME_LIMIT
    assert list(found.returns_by_task) == list(TASKS)


@pytest.mark.parametrize("tasks", [(TASKS[1],), TASKS], ids=["one", "all"])
def test_eval_plays_the_tasks_that_are_named(
    run: RunDirectory, tasks: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["eval", str(run.path), "--tasks", *tasks, "--episodes", "2", "--seeds", "1", "2"])
    printed = capsys.readouterr().out
    written = json.loads((run.path / "evaluation-seed2.json").read_text())
    assert written["tasks"] == [task for task in tasks for _ in range(2)]
    for task in tasks:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"  {task} ")]
        assert "4 episodes" in line
    assert len([line for line in printed.splitlines() if "4 episodes" in line]) == len(tasks)


def test_a_task_that_the_model_does_not_know_is_named(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["eval", str(run.path), "--tasks", "Pendulum-v2"])
    assert "'Pendulum-v2' is none of the tasks. Did you mean 'Pendulum-v1'" in " ".join(capsys.readouterr().err.split())


def test_report_and_imagine_play_the_first_task(run: RunDirectory) -> None:
    config = loop.read_config(tdmpc2_offline.RECIPE, run)
    model = AutoWorldModel.from_pretrained(run.checkpoints.latest() / "model")
    env = config.make_env(2, 0)
    assert env.reset()["task"].tolist() == [0, 0]
    head = VALUE_HEADS[tdmpc2_offline.RECIPE.name]
    assert [head(model, task).gamma for task in range(len(TASKS))] == list(model.config.discount)
    rows = tdmpc2_offline.RECIPE.new_rows(config, model, seed=0, most=5)
    assert rows["task"].tolist() == [0] * 5
    env.close()


def test_a_report_judges_the_task_that_is_named_or_the_worst_and_says_which(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = newest(run.path)
    means = trained.directory.logs.last_evaluation()
    worst = min(TASKS, key=lambda task: means[f"return/{task}"])
    assert of_one_task(trained, None).played == worst
    chosen = of_one_task(trained, TASKS[1])
    assert (chosen.played, chosen.task_number) == (TASKS[1], 1)
    for task in TASKS[1:]:
        cli.main(["report", str(run.path), "--task", task, "--episodes", "1", "--steps", "8", "--memories", "9",
                  "--ensemble-updates", "2"])  # fmt: skip
        assert f"on {task}: model report" in (run.path / "report" / "index.html").read_text()
    cli.main(["imagine", str(run.path), "--task", TASKS[1], "--context", "2", "--samples", "1"])
    with pytest.raises(SystemExit):
        cli.main(["report", str(run.path), "--task", "Pendulum-v2"])
    assert "Did you mean 'Pendulum-v1'" in " ".join(capsys.readouterr().err.split())


def test_arguments_of_one_environment_are_refused_for_several(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"env_kwargs=\['g=14'\] are arguments of one environment \(--env\)"):
        small(tmp_path, env_kwargs=("g=14",))


def test_one_task_is_learned_from_recordings_without_a_task_number(tmp_path: Path) -> None:
    state = tdmpc2_offline.make_state(small(tmp_path, tasks=(), env=TASKS[0], data=(TASKS[0],)))
    assert state.model.tasks is None
    assert list(state.model.observation_keys) == ["observation"]
    advance(tdmpc2_offline.RECIPE, state, 1)
    state.close()


@pytest.mark.parametrize("told", [{}, {"episodic": False}, {"episode_length": 12}, {"tasks": TASKS, "env": ""}])
def test_recorded_data_is_opened_once_and_its_ends_are_read_once(
    told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        function = getattr(tdmpc2_offline, name)
        monkeypatch.setattr(
            tdmpc2_offline, name, lambda *given, **by_name: calls.append(name) or function(*given, **by_name)
        )

    for name in ("open_episodes", "ends_by_itself"):
        counted(name)
    data = TASKS if "tasks" in told else TASKS[:1]
    config = small(tmp_path, **{"tasks": (), "env": TASKS[0], "data": data, **told})
    recipe = tdmpc2_offline.RECIPE
    for _ in range(2):  # what was opened for one state is not given to the next
        recipe.make_state(recipe.settle(config)).close()
    expected = ["open_episodes"] if "tasks" in told else ["open_episodes", "ends_by_itself"]
    assert calls == 2 * expected


def test_terminal_states_of_one_task_need_a_model_that_learns_of_them(
    tmp_path: Path, sources: dict[str, InMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = copy.copy(sources[TASKS[0]])
    ending._rows = ending._rows.clone()
    ending._rows["terminated"][ending.lengths.cumsum(0)[1] - 1] = True
    monkeypatch.setitem(sources, TASKS[0], ending)
    config = small(tmp_path, tasks=(), env=TASKS[0], data=(TASKS[0],))
    with pytest.raises(ValueError, match=r"end in terminal states, .* Train with --episodic\."):
        tdmpc2_offline.make_state(dataclasses.replace(config, episodic=False))
    state = tdmpc2_offline.make_state(config)  # the episodes tell, where nothing else does
    state.close()
    assert state.model.config.episodic
    tdmpc2_offline.make_state(small(tmp_path, data=TASKS)).close()  # in several tasks they count in the targets alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "name one of them, also where data is recorded"),
        ({"env": "Pendulum-v1"}, "name one of them"),
        ({"pixels": True}, "from vectors only"),
        ({"tasks": (), "env": "Pendulum-v1", "eval_tasks": TASKS}, "but there is one"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        small(tmp_path, **changes)


def test_a_single_task_is_an_environment() -> None:
    config = Config(tasks=("walker-walk",), data=("a",))
    assert (config.env, config.tasks) == ("dmc:walker-walk", ())


def test_a_task_without_environment_cannot_be_played(tmp_path: Path) -> None:
    config = small(tmp_path, tasks=(TASKS[0], "cup-spin"), data=("a",))
    assert config.without_environment == ("cup-spin",)
    assert config.played_tasks == (TASKS[0],)
    with pytest.raises(ValueError, match=r"There are no environments \['cup-spin'\] to play in"):
        _ = dataclasses.replace(config, eval_tasks=("cup-spin",)).played_tasks
    with pytest.raises(ValueError, match=r"There are no environments \['cup-spin'\] to collect in; give recorded data"):
        config.make_collection_env(0)


def test_lists_of_tasks_are_written_out() -> None:
    config = Config(tasks=("mt30", "Pendulum-v1"))
    assert len(config.task_names) == 31
    assert config.task == "mt30+Pendulum-v1"
    assert Config(tasks=config.task_names).task == "31-tasks"
