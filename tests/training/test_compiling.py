"""A run compiles its model when its first steps tell that it wins time back, and goes on as it chose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from worldloom_rl import ranks
from worldloom_rl.recipes import dreamerv3, tdmpc2, tdmpc2_offline
from worldloom_rl.training import compilation, compiling, loop
from worldloom_rl.training.checkpoint import Checkpoints
from worldloom_rl.training.clock import Counts
from worldloom_rl.training.compilation import Gains, missing_compiler
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.train_or_resume import train_or_resume

SMALL: dict[str, Any] = {
    "env": "Pendulum-v1", "time_limit": 20, "seed_steps": 20, "steps": 36, "eval_episodes": 1,
    "final_eval_episodes": 1, "first_evaluation": False, "checkpoint_every": 6,
    "overrides": ("num_samples=16", "num_elites=4", "num_policy_trajectories=2", "iterations=1", "batch_size=4"),
}  # fmt: skip
LONG_ENOUGH = Gains(acting=0.5, update=0.5, build=0.0, largest=10**9)


def weights(run: RunDirectory) -> dict[str, Tensor]:
    state = loop.load_state(tdmpc2.RECIPE, loop.read_config(tdmpc2.RECIPE, run), run.checkpoints.latest())
    state.close()
    return state.model.state_dict()


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def round_otherwise(modules: Iterable[nn.Module]) -> None:
    """In place of compiling: what a module gives has other last digits, and a copy of it has not."""
    for module in modules:
        forward = type(module).forward

        def rounded(self: nn.Module, *given: Any, forward: Any = forward, **named: Any) -> Any:
            return tree_map(lambda x: x * (1 + 2.0**-20), forward(self, *given, **named))

        module._compiled_call_impl = MethodType(rounded, module)  # type: ignore[assignment]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a compiler, which builds at once."""
    monkeypatch.setattr(compilation, "compile_modules", round_otherwise)
    for module in (compilation, compiling):
        monkeypatch.setattr(module, "missing_compiler", lambda device="cpu": None)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "MEASURED_STEPS", 4)
    monkeypatch.setattr(tdmpc2.TDMPC2Recipe, "gains", LONG_ENOUGH)


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("eager") / "run"
    return tdmpc2.train(tdmpc2.Config(run_directory=str(folder), compile=False, **SMALL))


def test_a_short_run_chooses_to_stay_as_it_is_and_none_of_its_numbers_change(
    eager: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiling, "MEASURED_STEPS", 4)
    monkeypatch.setattr(compiling, "compile_model", None)  # nobody calls it
    run = tdmpc2.train(tdmpc2.Config(run_directory=str(tmp_path / "run"), **SMALL))
    chosen = json.loads((run.path / "compilation.json").read_text())
    assert chosen == {"compiled": False, "agent_steps": 25, "updates": 25, "steps": 36}
    assert "compile" not in capsys.readouterr().out
    assert same(weights(run), weights(eager))
    # Asked for again, it says the same; so does a run that was told, which is no other run for that.
    for there in (run, eager):
        assert train_or_resume(tdmpc2.RECIPE, tdmpc2.Config(run_directory=str(there.path), **SMALL)).path == there.path


@pytest.mark.usefixtures("stand_in", "soon")
def test_a_long_run_says_that_it_compiles_and_goes_on_bit_for_bit_from_before_and_after(
    eager: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "_drop", lambda self: None)  # the one before the choice stays
    run = tdmpc2.train(tdmpc2.Config(run_directory=str(tmp_path / "run"), **SMALL))
    told = " ".join(capsys.readouterr().out.split())
    assert "The run is long enough to be compiled, which takes about 0 s and should save about" in told
    assert "--no-compile leaves that out. 7 parts of the model are compiled" in told
    chosen = json.loads((run.path / "compilation.json").read_text())
    assert chosen == {"compiled": True, "agent_steps": 25, "updates": 25, "steps": 36}
    expected = weights(run)
    assert not same(expected, weights(eager))
    for start in (24, 30):
        copied = RunDirectory(shutil.copytree(run.path, tmp_path / f"from{start}"))
        (copied.path / "result.json").unlink()
        again = loop.resume(tdmpc2.RECIPE, copied, start=start)
        assert same(weights(again), expected)


# ------------------------------------------------------------------ the choice


def state_of(config: Any, parameters: int = 1000) -> Any:
    """As much of a run's state as the choice reads."""
    model = SimpleNamespace(num_parameters=lambda: parameters)
    return SimpleNamespace(config=config, model=model, resumed="", agent_steps=0, updates=0)


@pytest.mark.parametrize(
    ("gains", "left", "compiled"),
    [
        (Gains(0.28, 0.1, 45.0, 9), {"environment": 50.0, "acting": 300.0, "update": 500.0}, True),  # 134 s
        (Gains(0.28, 0.1, 70.0, 9), {"environment": 50.0, "acting": 300.0, "update": 500.0}, False),  # not twice 70 s
        (Gains(0.28, 0.1, 45.0, 9), {"environment": 0.0, "acting": 0.0, "update": 899.0}, False),  # 89.9 s
        (Gains(0.28, 0.1, 45.0, 9), {"environment": 9000.0, "acting": 300.0, "update": 500.0}, False),  # 1.4 %
        (Gains(0.0, 0.04, 0.0, 9), {"environment": 0.0, "acting": 0.0, "update": 9e9}, False),  # 4 %
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_the_choice_weighs_what_is_won_against_the_build_and_against_all_that_is_left(
    gains: Gains, left: dict[str, float], compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "compile_model", lambda model, device: "compiled")
    recipe: Any = SimpleNamespace(gains=gains)
    state = state_of(tdmpc2.Config(env="Pendulum-v1"))
    choice = compiling.CompilingIfItPays(recipe, state, RunDirectory(tmp_path))
    assert choice._decide(left).endswith("compiled") == compiled
    assert json.loads((tmp_path / "compilation.json").read_text())["compiled"] == compiled


def test_without_a_compiler_a_person_is_told_what_it_would_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: "torch.compile needs a C++ compiler")
    recipe: Any = SimpleNamespace(gains=Gains(0.25, 0.1, 45.0, 9))
    choice = compiling.CompilingIfItPays(recipe, state_of(tdmpc2.Config(env="Pendulum-v1")), RunDirectory(tmp_path))
    told = choice._decide({"environment": 4_000.0, "acting": 30_000.0, "update": 18_000.0})
    assert told == (
        "Compiled, the model would save about 2.6 h of the 14.4 h left, but torch.compile needs a C++ compiler."
    )
    assert choice.after("training") == choice.cost() == ""


@pytest.mark.parametrize(
    "changes", [{"pixels": True}, {"device": "cuda:0"}, {"parallel": "processes"}, {"actors": 2}, {"ranks": 2}, {}]
)
def test_runs_of_kinds_that_nobody_measured_stay_as_they_are(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = changes.get("ranks", 1)
    monkeypatch.setattr(ranks, "count", lambda: processes)
    config = tdmpc2.Config(env="Pendulum-v1")
    for name, value in changes.items():  # unchecked: a GPU and Ray need not be here
        object.__setattr__(config, name, value)
    made = compiling.compiling(tdmpc2.RECIPE, state_of(config), RunDirectory(tmp_path))
    assert isinstance(made, compiling.CompilingIfItPays) == (not changes)


@pytest.mark.parametrize(
    ("recipe", "parameters", "measures"),
    [
        (tdmpc2.RECIPE, 5_000_000, True),
        (tdmpc2.RECIPE, 19_000_000, False),
        (tdmpc2_offline.OfflineTDMPC2Recipe(), 5_000_000, True),
        (dreamerv3.RECIPE, 1_000_000, False),
    ],
)
def test_families_and_sizes_that_win_nothing_measure_nothing(
    recipe: Any, parameters: int, measures: bool, tmp_path: Path
) -> None:
    config = recipe.config_class(env="Pendulum-v1")
    made = compiling.compiling(recipe, state_of(config, parameters), RunDirectory(tmp_path))
    assert isinstance(made, compiling.CompilingIfItPays) == measures


def test_what_a_run_was_told_holds(tmp_path: Path) -> None:
    for told, kind in ((True, compiling.CompilingAt), (False, compiling.Compiling)):
        config = tdmpc2.Config(env="Pendulum-v1", compile=told)
        assert type(compiling.compiling(tdmpc2.RECIPE, state_of(config), RunDirectory(tmp_path))) is kind


def test_a_run_that_is_longer_now_chooses_anew_but_never_goes_back(tmp_path: Path) -> None:
    state = state_of(tdmpc2.Config(env="Pendulum-v1", steps=100))
    state.resumed = "Goes on after 30 steps"
    file = tmp_path / "compilation.json"
    for steps, compiled, kind in (
        (100, False, compiling.Compiling),
        (60, False, compiling.CompilingIfItPays),
        (60, True, compiling.CompilingAt),
    ):
        file.write_text(json.dumps({"compiled": compiled, "agent_steps": 25, "updates": 25, "steps": steps}))
        assert type(compiling.compiling(tdmpc2.RECIPE, state, RunDirectory(tmp_path))) is kind
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"compilation\.json does not say whether the model is compiled; remove it"):
        compiling.compiling(tdmpc2.RECIPE, state, RunDirectory(tmp_path))


def test_older_runs_that_were_told_mean_what_they_meant(tmp_path: Path) -> None:
    saved = Path(__file__).parents[1] / "saved_by_0_6" / "run-tdmpc2"
    run = RunDirectory(shutil.copytree(saved, tmp_path / "run"))
    assert loop.read_config(tdmpc2.RECIPE, run).compile is False
    for told in (True, None):
        run.change_config(compile=told)
        assert loop.read_config(tdmpc2.RECIPE, run).compile is told


def test_measuring_leaves_no_hook_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tdmpc2.make_state(tdmpc2.Config(run_directory=str(tmp_path), **SMALL))
    try:
        policy, profile = state.source.collector.policy, state.profile
        measured = compiling._Measured(state)
        assert policy._forward_hooks
        while state.updates < 22:
            loop.step(tdmpc2.RECIPE, state)
        seconds = measured.end()
        assert not policy._forward_hooks
        assert not policy._forward_pre_hooks
        assert state.profile is profile
        assert measured.since == Counts(0, 0)
        assert list(seconds) == ["environment", "acting", "sampling", "update"]
        assert all(value > 0 for value in seconds.values())
    finally:
        state.close()


@pytest.mark.process
@pytest.mark.usefixtures("soon")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_what_is_really_built_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := missing_compiler()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "built"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    monkeypatch.setattr(tdmpc2.TDMPC2, "step_modules", lambda model: [model.behavior.policy])  # one is built soon
    monkeypatch.setattr(Checkpoints, "_drop", lambda self: None)
    # Whoever goes on from 30 evaluates first: what is built is first called with other rows than it was.
    evaluated = {**SMALL, "eval_every": 30, "eval_episodes": 3}
    run = tdmpc2.train(tdmpc2.Config(run_directory=str(tmp_path / "run"), **evaluated))
    for start in (30, 24):
        copied = RunDirectory(shutil.copytree(run.path, tmp_path / f"from{start}"))
        (copied.path / "result.json").unlink()
        assert same(weights(loop.resume(tdmpc2.RECIPE, copied, start=start)), weights(run))
