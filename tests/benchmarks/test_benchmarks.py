"""The benchmarks measure what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from speed import catalogue, command, measure, table, tdmpc2
from speed.workload import Peer, Workload


@pytest.fixture(autouse=True)
def threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def multiply(mode: str) -> object:
    left, right = torch.randn(1024, 1024), torch.randn(1024, 512)
    return lambda: left @ right


def test_half_the_yardsticks_product_takes_about_half_its_time() -> None:
    half = Workload("half", "half a yardstick", multiply, 2e-9 * 1024 * 1024 * 512, repeats=4)  # type: ignore[arg-type]
    torch.set_num_threads(1)
    timed = measure.contestants([half], mode="eager", against=None, seed=0)
    measure.measure(timed, rounds=3)
    row = timed[0].row
    assert row.done_gflop == pytest.approx(row.reference_gflop)
    assert len(row.milliseconds) == 3
    assert 0.7 < min(row.bounds) < 1.6


def test_a_peers_row_stands_beside_ours_with_the_ratio_or_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    peers = (Peer("torchrl", partial(multiply, False), "the same"),)  # type: ignore[arg-type]
    works = Workload("a", "product", multiply, 1.07, peers=peers)  # type: ignore[arg-type]
    refused = Workload("b", "product", multiply, 1.07, peers=(Peer("torchrl", None, "it cannot"),))  # type: ignore[arg-type]
    timed = measure.contestants([works, refused], mode="eager", against="torchrl", seed=0)
    measure.measure(timed, rounds=2)
    rows = [contestant.row for contestant in timed]
    lines = table.markdown(rows).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["worldloom", "torchrl", "worldloom", "torchrl"]
    record = table.record(rows[1], rows, {})
    expected = sorted(theirs / ours for theirs, ours in zip(rows[1].milliseconds, rows[0].milliseconds, strict=True))
    assert record["ratio"]["min"] == pytest.approx(expected[0])
    assert "it cannot" in lines[5]
    assert table.record(rows[3], rows, {})["cpu_ms"] is None


def test_a_plan_does_less_than_the_reference_because_only_two_of_five_qs_run() -> None:
    done = measure.done_gflop(tdmpc2.plan(1, "eager"))
    # 46.43 with all five Qs; two of them save 10.7, and one product for what all samples of the first step share 3.2.
    assert done == pytest.approx(46.43 - 10.7 - 3.2, rel=0.01)


def test_the_command_prints_a_table_and_a_line_of_json_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.run(("act-12m-1",), rounds=2, json=tmp_path / "out.json", memory=False)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| workload |")
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert record["workload"] == "act-12m-1"
    assert record["done_gflop"] == pytest.approx(0.012, rel=0.02)
    assert json.loads(printed[-1]) == record


@pytest.mark.process
def test_the_command_works_from_any_folder_and_asks_another_process_for_the_memory(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent), "act-12m-1", "--rounds", "1", "--json", "out.json"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert record["command"] == ["python", "tests/benchmarks", *command[2:]]
    assert record["peak_gb"] is None or 0.04 < record["peak_gb"] < 0.3  # 12 million weights of four bytes


@pytest.mark.process
def test_a_tree_beside_itself_is_measured_in_turn_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent), "trees"]
    options = ["write-back", "--rounds", "2", "--processes", "2", "--no-memory", "--json", "out.json"]
    subprocess.run([*command, str(Path(__file__).parents[2]), *options], cwd=tmp_path, check=True, capture_output=True)
    before, now = json.loads((tmp_path / "out.json").read_text())
    assert (before["by"], now["by"], before["commit"]) == ("before", "now", now["commit"])
    assert len(before["milliseconds"]) == len(now["milliseconds"]) == 4
    assert now["before_over_this"]["max"] == pytest.approx(
        max(old / new for old, new in zip(before["milliseconds"], now["milliseconds"], strict=True))
    )
    refused = subprocess.run([*command, str(tmp_path)], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert f"{tmp_path} is not the root of a tree of this project" in refused.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit, match="finds no CUDA device"):
        command.run(("act-12m-1",), device="cuda")


def test_times_of_a_gpu_are_named_as_wall_times() -> None:
    row = measure.Measurement("a", "product", "worldloom", "eager", milliseconds=[2.0, 1.0])
    assert table.markdown([row], "wall").splitlines()[0].split("|")[3].strip() == "wall ms"
    assert table.record(row, [row], {}, "wall")["wall_ms"] == {"median": 1.5, "min": 1.0, "max": 2.0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_timed_and_named_and_its_memory_measured(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    command.run(("act-12m-1", "sample-vectors"), rounds=2, device="cuda", against="torchrl", json=file)
    ours, theirs, *replayed = json.loads(file.read_text())
    assert ours["device"] == torch.cuda.get_device_name()
    assert ours["wall_ms"]["min"] > 0
    assert 0.04 < ours["peak_gb"] < 0.2  # 12 million weights of four bytes, and little beside them
    assert theirs["ratio"]["min"] > 0
    assert len(replayed) == 2


def test_an_unknown_workload_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="There is no workload 'plann'"):
        catalogue.find("plann")


def test_resident_memory_grows_with_what_is_kept() -> None:
    before = measure.resident_bytes()
    if before is None:
        pytest.skip("the system does not tell")
    kept = torch.ones(50_000_000)
    after = measure.resident_bytes()
    assert after is not None
    assert 150e6 < after[0] - before[0] < 250e6
    assert after[1] >= after[0] > kept.nbytes


@pytest.mark.slow
def test_a_training_step_is_a_plan_and_an_update() -> None:
    pytest.importorskip("dm_control")
    step = catalogue.find("train-tdmpc2-5m").make("eager")
    parts = [measure.done_gflop(call) for call in (tdmpc2.plan(1, "eager"), tdmpc2.learn("eager"))]
    assert measure.done_gflop(step) == pytest.approx(sum(parts), rel=0.01)


def test_work_that_needs_what_is_not_installed_says_so() -> None:
    (made,) = measure.contestants([Workload("a", "b", multiply, needs="nowhere")], mode="eager", against=None, seed=0)  # type: ignore[arg-type]
    assert made.call is None
    assert made.row.note == "nowhere is not installed"
