"""An exported policy acts as the library does, in onnxruntime and as a torch.export program, and stands alone."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl import AutoWorldModel, ModeNoise, ReplayNoise, WorldModel, cli
from worldloom_rl.commands.export import DESCRIPTION_FILE, ONNX_FILE, PROGRAM_FILE
from worldloom_rl.envs import make_env
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training.evaluate import with_primers

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "saved_by_0_6"
FAMILIES = ("dreamerv3", "tdmpc2", "tokens")
STEPS, PLANS, TOLERANCE = 100, 32, 1e-5
SMALL = {
    "encoder_dim": 12, "mlp_dim": 12, "latent_dim": 8, "simnorm_dim": 4, "num_bins": 9, "horizon": 2, "iterations": 2,
    "num_samples": 16, "num_elites": 4, "num_policy_trajectories": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {family: tmp_path_factory.mktemp("exports") / family for family in FAMILIES}
    for family, folder in folders.items():
        cli.main(["export", str(RUNS / f"run-{family}"), str(folder)])
    return folders


class Exported:
    """The programs of a directory, each with what it carries."""

    def __init__(self, folder: Path) -> None:
        self.told = json.loads((folder / DESCRIPTION_FILE).read_text())
        self.program = torch.export.load(folder / PROGRAM_FILE).module()
        self.inputs, self.outputs = self.told["inputs"], [port["name"] for port in self.told["outputs"]]
        self.runs = [self._run_program]
        if (folder / ONNX_FILE).exists():
            self.session = onnxruntime.InferenceSession(folder / ONNX_FILE)
            self.runs.append(lambda given: self.session.run(self.outputs, given))
        self.carried: list[dict[str, np.ndarray]] = [{}, {}]

    def act(self, row: TensorDictBase, draws: dict[str, np.ndarray] | None = None) -> list[dict[str, np.ndarray]]:
        """What onnxruntime and torch.export say to a row of the environment, and to what is drawn."""
        said = []
        for place, run in enumerate(self.runs):
            carried = self.carried[place]
            given = {port["name"]: self._value(port, row, carried, draws or {}) for port in self.inputs}
            said.append(dict(zip(self.outputs, run(given), strict=True)))
        self.carried = said
        return said

    def _run_program(self, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [value.numpy() for value in self.program(*map(torch.as_tensor, given.values()))]

    @staticmethod
    def _value(
        port: dict[str, Any], row: TensorDictBase, carried: dict[str, np.ndarray], draws: dict[str, np.ndarray]
    ) -> np.ndarray:
        if port["name"] in draws:
            return draws[port["name"]]
        if port["kind"] == "carried":
            return carried.get(port["from"], np.zeros((len(row), *port["shape"][1:]), port["dtype"]))
        return row[port["name"]].numpy()


def library_policy(model: WorldModel) -> TensorDictSequential:
    model.noise = ModeNoise()
    carried = [model.carry_action] if model.recurrent else []
    return TensorDictSequential(model.observe, model.make_actor(), *carried)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hundred_steps_of_the_true_environment_are_the_librarys(family: str, exported: dict[str, Path]) -> None:
    model = AutoWorldModel.from_pretrained(RUNS / f"run-{family}").eval()
    policy, programs = library_policy(model), Exported(exported[family])
    options = programs.told["environment"]
    # Short episodes, so that there are resets; two environments.
    env = make_env(options["name"], num_envs=2, time_limit=30, seed=0)
    env = with_primers(env, policy)
    row, resets = env.reset(), 0
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        for _ in range(STEPS):
            resets += int(row["is_init"].sum())
            said = programs.act(row)
            acted = policy(row.copy())
            action = acted["action"]
            if "classes" in programs.told["actions"][0]:
                action = action.argmax(-1)
            for program in said:
                assert np.abs(program["action"] - action.numpy()).max() <= TOLERANCE
                for name, _ in model.latent_spec.items() if model.recurrent else ():
                    latent = acted[model.key_map.leaf(name)].numpy()
                    assert np.abs(program[f"next.latent.{name}"] - latent).max() <= TOLERANCE
            row = env.step_and_maybe_reset(acted)[1]
    env.close()
    assert resets > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_programs_take_one_row_and_many(family: str, exported: dict[str, Path]) -> None:
    programs = Exported(exported[family])
    for batch in (1, 300):
        given = [np.zeros((batch, *port["shape"][1:]), port["dtype"]) for port in programs.inputs]
        named = dict(zip((port["name"] for port in programs.inputs), given, strict=True))
        for ours, theirs in zip(
            programs._run_program(named), programs.session.run(programs.outputs, named), strict=True
        ):
            assert len(ours) == batch
            assert np.abs(ours - theirs).max() <= TOLERANCE


def test_the_description_names_bounds_and_what_is_carried(exported: dict[str, Path]) -> None:
    pendulum, cartpole = (Exported(exported[family]).told for family in ("tdmpc2", "dreamerv3"))
    assert pendulum["actions"] == [{"name": "action", "low": [-2.0], "high": [2.0]}]
    assert cartpole["actions"] == [{"name": "action", "classes": [2]}]
    assert pendulum["randomness"] == cartpole["randomness"] == "mode"
    assert [port["name"] for port in pendulum["inputs"]] == ["observation"]
    carried = {port["name"]: port["from"] for port in cartpole["inputs"] if port["kind"] == "carried"}
    names = ("latent.deterministic", "latent.stochastic", "previous_action")
    assert carried == {name: f"next.{name}" for name in names}
    assert set(carried.values()) < {port["name"] for port in cartpole["outputs"]}


SCRIPT = ROOT / "tutorials" / "run_exported_policy.py"


@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2"])
def test_forty_lines_play_it_without_the_library(
    family: str, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(exported[family])])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out.count("return") == 3
    code = SCRIPT.read_text()
    assert "import worldloom" not in code
    assert len(code.splitlines()) <= 46


def drawn(programs: Exported, rows: int, numbers: np.random.Generator) -> dict[str, np.ndarray]:
    """Noise of a step, as policy.json tells it."""
    draw = {
        "normal": numbers.standard_normal,
        "exponential": numbers.standard_exponential,
        "permutation": lambda shape: numbers.permutation(*shape),
    }
    return {
        port["name"]: draw[port["kind"]]([rows if size == "batch" else size for size in port["shape"]]).astype(
            port["dtype"]
        )
        for port in programs.inputs
        if port["name"].startswith("noise.")
    }


@pytest.mark.parametrize("explores", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_plans_are_the_eager_planners_given_the_same_noise(explores: bool, tmp_path: Path) -> None:
    # Values about zero, told apart by many more digits than rounding moves: the elites are the same whoever computes.
    model = TDMPC2(TDMPC2Config.from_size("tiny", **SMALL), *specs_of(make_env("Pendulum-v1"))).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator) * parameter.requires_grad)
    model.save_pretrained(tmp_path / "model")
    cli.main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--plan", *["--sample"] * explores])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {PROGRAM_FILE, DESCRIPTION_FILE}
    programs, numbers = Exported(tmp_path / "out"), np.random.default_rng(0)
    assert programs.told["randomness"] == "input"
    ports = {port["name"]: port for port in programs.inputs}
    assert (ports["planner.mean"]["from"], ports["planner.mean"]["shape"]) == ("next.planner.mean", ["batch", 2, 1])
    policy = model.make_policy()
    env = with_primers(make_env("Pendulum-v1", num_envs=3, time_limit=8, seed=0), policy)
    row, resets = env.reset(), 0
    exploration = ExplorationType.RANDOM if explores else ExplorationType.DETERMINISTIC
    with torch.no_grad(), set_exploration_type(exploration):
        for _ in range(PLANS):
            resets += int(row["is_init"].sum())
            draws = drawn(programs, 3, numbers)
            said = programs.act(row, draws)
            replayed: dict[str, list[torch.Tensor]] = {}
            for name, value in draws.items():
                replayed.setdefault(name.split(".")[1], []).append(torch.as_tensor(value))
            model.noise = noise = ReplayNoise(replayed)
            acted = policy(row.copy())
            assert noise.unused() == {}
            for program in said:
                assert np.abs(program["action"] - acted["action"].numpy()).max() <= TOLERANCE
                assert np.abs(program["next.planner.mean"] - acted["planner", "mean"].numpy()).max() <= TOLERANCE
            row = env.step_and_maybe_reset(acted)[1]
    env.close()
    assert resets == 3 * 4


@pytest.mark.slow
def test_what_is_drawn_can_go_in(tmp_path: Path) -> None:
    cli.main(["export", str(RUNS / "run-dreamerv3"), str(tmp_path / "out"), "--sample"])
    programs = Exported(tmp_path / "out")
    assert programs.told["randomness"] == "input"
    assert [port["kind"] for port in programs.inputs if port["name"].startswith("noise.")] == ["uniform", "uniform"]
    numbers = np.random.default_rng(0)
    actions = set()
    for _ in range(20):
        named = {port["name"]: np.zeros((4, *port["shape"][1:]), port["dtype"]) for port in programs.inputs}
        for name, value in named.items():
            if name.startswith("noise."):
                named[name] = numbers.random(value.shape, np.float32)
        ours, theirs = programs._run_program(named), programs.session.run(programs.outputs, named)
        assert all(np.abs(a - b).max() <= TOLERANCE for a, b in zip(ours, theirs, strict=True))
        actions |= set(ours[0].tolist())
    assert actions == {0, 1}


@pytest.mark.parametrize(
    ("run", "options", "said"),
    [
        ("run-jepa", [], "JEPA acts by planning alone: export how it plans (--plan)"),
        ("run-dreamerv3", ["--plan"], "DreamerV3 acts by its actor, without plans"),
        ("no-run", [], "neither a directory nor a preset"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    run: str, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", str(RUNS / run), str(tmp_path / "out"), *options])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(SystemExit):
        cli.main(["export", str(RUNS / "run-tdmpc2"), str(tmp_path / "out")])
    assert "is there already; choose a name that is not" in capsys.readouterr().err
