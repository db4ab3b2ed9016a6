"""`worldloom compare`: what is taken together, what the official code scored, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from worldloom_rl import cli
from worldloom_rl.report.compare import comparison_figure, draw_comparison
from worldloom_rl.report.run_results import RunResult, group_runs, read_result
from worldloom_rl.report.sweep_page import runs_in
from worldloom_rl.training.published_curves import Point, published_curve

RESULTS = Path(__file__).parents[1] / "learning" / "results"


def results(pattern: str) -> list[RunResult]:
    """Of runs; other scripts' files, of planners and of PPO in dreams, begin with other letters."""
    return [read_result(file) for file in sorted(RESULTS.glob(pattern))]


def written(file: Path, seed: int = 0, **changes: object) -> Path:
    """A result of two evaluations, 1 and 2 then 3 and 5, after 0 and 100 agent steps of two environment steps."""
    config: dict[str, object] = {"env": "dmc:cup-catch", "preset": "tiny", "overrides": [], "seed": seed}
    config |= {"action_repeat": None, "pixels": False}
    evaluations = [{"agent_steps": 0, "returns": [1.0, 2.0]}, {"agent_steps": 100, "returns": [3.0, 5.0]}]
    result = {
        "recipe": "tdmpc2",
        "config": {**config, **changes},
        "agent_steps": 100,
        "environment_steps": 200,
        "evaluations": evaluations,
        "final_returns": [3.0, 5.0],
    }
    file.write_text(json.dumps(result))
    return file


# ------------------------------------------------------------------ the recorded results


def test_recorded_pendulum_runs_make_a_group_for_each_setting_with_the_mean_of_their_seeds() -> None:
    groups = {group.label: group for group in group_runs(results("[dt]*-pendulum-seed*.json"))}
    assert set(groups) == {"dreamerv3 tiny", 'dreamerv3 tiny, groups=16, latent="gaussian"', "tdmpc2 tiny"}
    tdmpc2 = groups["tdmpc2 tiny"]
    assert [run.config["seed"] for run in tdmpc2.runs] == [0, 1, 2]
    steps, means = tdmpc2.curve()
    assert steps.tolist() == [0, 1000, 2000, 3000, 4000, 5000]
    recorded = [json.loads(run.file.read_text())["final_mean_return"] for run in tdmpc2.runs]
    assert means[:, -1].tolist() == pytest.approx(recorded)
    assert tdmpc2.official is None  # Pendulum-v1 is in no published curve


def test_compare_prints_the_official_score_and_writes_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    cli.main(["compare", str(RESULTS / "tdmpc2-dmc-cartpole-balance-seed0.json")])
    printed = capsys.readouterr().out
    assert "dmc:cartpole-balance" in printed
    assert "12,500" in printed
    assert "25,000" in printed
    assert "997.8" in printed  # TD-MPC2's results: cartpole-balance after 100,000 environment steps
    assert "997.8 at" in printed
    assert "100,000" in printed  # the first that was published, beyond the run's steps
    assert "TD-MPC2 5M, 3 seeds, evaluation episodes" in " ".join(printed.split())
    assert "…" not in printed  # nothing is cut off in 80 columns
    assert printed.rstrip().endswith("compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------ groups


def test_runs_that_differ_in_more_than_the_seed_are_told_apart(tmp_path: Path) -> None:
    files = [
        written(tmp_path / "a.json", seed=0),
        written(tmp_path / "b.json", seed=1, eval_every=7),
        written(tmp_path / "c.json", seed=0, overrides=["horizon=5"]),
        written(tmp_path / "d.json", seed=0, pixels=True),
        written(tmp_path / "e.json", seed=0, preset="1m"),
        written(tmp_path / "f.json", seed=0, preset="1m", setting_that_is_new=1),
    ]
    groups = group_runs([read_result(file) for file in files])
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("tdmpc2 tiny, pixels=False", 2),
        ("tdmpc2 tiny, horizon=5, pixels=False", 1),
        ("tdmpc2 tiny, pixels=True", 1),
        ("tdmpc2 1m", 1),
        ("tdmpc2 1m, setting_that_is_new=1", 1),
    ]


def test_the_default_action_repeat_is_the_one_that_held(tmp_path: Path) -> None:
    files = [written(tmp_path / "a.json"), written(tmp_path / "b.json", seed=1, action_repeat=2)]
    assert len(group_runs([read_result(file) for file in files])) == 1


def test_curves_of_runs_evaluated_at_other_steps_are_interpolated_where_all_have_some(tmp_path: Path) -> None:
    other = json.loads(written(tmp_path / "a.json").read_text())
    other["evaluations"] = [{"agent_steps": 50, "returns": [10.0]}, {"agent_steps": 100, "returns": [20.0]}]
    (tmp_path / "b.json").write_text(json.dumps(other))
    (group,) = group_runs([read_result(tmp_path / "a.json"), read_result(tmp_path / "b.json")])
    steps, means = group.curve()
    assert steps.tolist() == [100, 200]
    assert means.tolist() == [[2.75, 4.0], [10.0, 20.0]]  # 2.75: halfway from 1.5 to 4


def test_of_three_runs_the_interval_is_drawn_over_runs_and_of_fewer_over_their_episodes(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{seed}.json", seed=seed) for seed in range(4)]
    for place, file in enumerate(files):
        result = json.loads(file.read_text())
        returns = [10.0 * place - 5.0, 10.0 * place + 5.0]  # means 0, 10, 20, 30
        result["evaluations"][-1]["returns"] = result["final_returns"] = returns
        file.write_text(json.dumps(result))
    runs = [read_result(file) for file in files]
    (several,), (two,) = group_runs(runs), group_runs(runs[:2])
    middle, low, high = several.interquartile_mean
    assert middle == 15.0  # of 0, 10, 20 and 30 the middle two
    assert (low, high) == (0.0, 30.0)  # of 256 draws of four runs 13 have three or four of the least: 5 %
    middle, low, high = two.interquartile_mean
    assert middle == 5.0  # of -5, 5, 5 and 15 the middle two
    assert (low, high) == (0.0, 10.0)  # each run's two episodes drawn anew: at the least -5 -5 and 5 5
    left = comparison_figure([several]).axes[0]
    assert left.get_title() == "IQM of runs, 95 % interval"
    assert left.lines[0].get_ydata().tolist() == [1.5, 15.0]
    assert comparison_figure([two]).axes[0].get_title() == "mean of runs, band from lowest to highest"


# ------------------------------------------------------------------ official curves


@pytest.mark.parametrize(
    ("recipe", "env", "pixels", "expected"),
    [
        ("tdmpc2", "dmc:walker-run", False, Point(300_000, 808.6, 796.7, 827.3)),
        ("tdmpc2", "dmc:walker-run", True, Point(100_000, 194.1, 168.8, 217.8)),
        ("tdmpc2", "dmc:finger-spin", False, Point(4_000_000, 990.5, 989.5, 991.1)),
        ("dreamerv3", "dmc:cartpole-swingup", False, Point(20_000, 188.95, 137.074, 213.177)),
        ("dreamerv3", "dmc:cartpole-swingup", True, Point(75_000, 468.475, 215.662, 776.123)),
        # The published steps of Atari are frames; a step of our environments is four.
        ("dreamerv3", "ale100k:Alien", False, Point(75_000, 683.506, 620.775, 797.269)),
    ],
)
def test_official_scores_are_the_published_ones(recipe: str, env: str, pixels: bool, expected: Point) -> None:
    curve = published_curve(recipe, env, pixels=pixels)
    assert curve is not None
    assert curve.at(expected.steps) == expected


def test_between_published_points_a_score_is_read_off_the_line_and_beyond_them_there_is_none() -> None:
    curve = published_curve("dreamerv3", "dmc:cartpole-swingup", pixels=False)
    assert curve is not None
    between = curve.at(12_500)  # a quarter of the way from 62.765 [47.41, 82.123] to 188.95 [137.074, 213.177]
    assert between is not None
    assert (between.mean, between.low, between.high) == pytest.approx((94.31125, 69.826, 114.8865))
    assert curve.at(9_999) is None
    assert curve.at(490_001) is None
    assert [point.steps for point in curve.until(15_000)] == [10_000, 20_000]
    assert str(curve) == "DreamerV3 12M at train_ratio 512, 5 seeds, training episodes"


@pytest.mark.parametrize("name", ["dmc:cup-catch", "dmc:ball_in_cup-catch"])
@pytest.mark.parametrize("recipe", ["tdmpc2", "dreamerv3"])
def test_both_names_of_a_task_find_its_curve(recipe: str, name: str) -> None:
    assert published_curve(recipe, name, pixels=False) == published_curve(recipe, "dmc:cup-catch", pixels=False)
    assert published_curve(recipe, name, pixels=False) is not None


def test_names_of_several_words_find_their_curve() -> None:
    for env in ("dmc:finger-turn_easy", "dmc:finger-turn-easy", "dmc:cartpole-swingup_sparse"):
        assert published_curve("tdmpc2", env, pixels=False) is not None
    for game in ("UpNDown", "MsPacman", "BankHeist", "WizardOfWor", "VideoPinball"):
        assert published_curve("dreamerv3", f"ale:{game}", pixels=False) is not None


@pytest.mark.parametrize(
    ("recipe", "env"),
    [
        ("tdmpc2", "CartPole-v1"),
        ("tdmpc2", "dmc:cartpole-nothing"),
        ("tdmpc2", "ale:Pong"),
        ("tdmpc2", "dmc:mw-push"),  # published as a success rate, which is no return
        ("dreamerv3", "dmc:quadruped-walk"),  # published from images only
        ("another", "dmc:walker-run"),
    ],
)
def test_what_was_not_published_has_no_official_curve(recipe: str, env: str) -> None:
    assert published_curve(recipe, env, pixels=False) is None


def test_a_time_limit_of_ones_own_makes_another_task(tmp_path: Path) -> None:
    (own,) = group_runs([read_result(written(tmp_path / "a.json"))])
    (limited,) = group_runs([read_result(written(tmp_path / "b.json", time_limit=50))])
    assert own.official is not None
    assert limited.official is None
    with pytest.raises(ValueError, match="dmc:cup-catch with a time limit of 50"):
        group_runs([*own.runs, *limited.runs])


# ------------------------------------------------------------------ the picture and mistakes


def test_a_picture_is_drawn_of_equal_returns_and_of_a_single_evaluation(tmp_path: Path) -> None:
    result = json.loads(written(tmp_path / "a.json").read_text())
    result["evaluations"] = [{"agent_steps": 100, "returns": [1.0]}]
    result["final_returns"] = [1.0]
    (tmp_path / "a.json").write_text(json.dumps(result))
    draw_comparison(tmp_path / "picture.png", group_runs([read_result(tmp_path / "a.json")]))
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_end_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = tmp_path / "running"
    running.mkdir()
    (running / "config.json").write_text("{}")
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "empty").mkdir()
    pendulum, cartpole = (str(RESULTS / f"dreamerv3-{task}-seed0.json") for task in ("pendulum", "cartpole"))
    mistakes = {
        (str(running),): f"worldloom resume {running}",
        (str(tmp_path / "nowhere"),): "neither a run directory nor",
        (str(tmp_path / "empty"),): "neither a run directory nor",
        (str(tmp_path / "text.json"),): "is not the result.json",
        (str(RESULTS / "benchmark-replay.json"),): "is not the result.json",
        (pendulum, cartpole): "no common axis: Pendulum-v1; CartPole-v1",
        (pendulum, pendulum): "given twice",
        (): "nothing to compare",
    }
    for arguments, message in mistakes.items():
        with pytest.raises(SystemExit) as stopped:
            cli.main(["compare", *arguments])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err.replace("\n", " ")


# ------------------------------------------------------------------ runs counted in updates


def counted_in_updates(file: Path) -> Path:
    result = json.loads(written(file).read_text())
    for entry, updates in zip(result["evaluations"], (0, 700), strict=True):
        entry["updates"] = updates
    file.write_text(json.dumps({**result, "clock": "updates"}))
    return file


def test_runs_on_data_that_was_there_before_are_drawn_by_updates(tmp_path: Path) -> None:
    result = read_result(counted_in_updates(tmp_path / "a.json"))
    assert result.steps == (0, 700)
    assert result.environment_steps == 200
    draw_comparison(tmp_path / "picture.png", group_runs([result]))


def test_updates_and_environment_steps_have_no_common_axis(tmp_path: Path) -> None:
    mixed = [read_result(counted_in_updates(tmp_path / "a.json")), read_result(written(tmp_path / "b.json"))]
    with pytest.raises(ValueError, match="have no common axis"):
        group_runs(mixed)


# ------------------------------------------------------------------ the runs of a directory on one page


def swept(directory: Path) -> Path:
    """Runs on two tasks, one that is not finished, one without returns, and what is no run."""
    for name, changes in (
        ("a0", {"seed": 0}),
        ("a1", {"seed": 1, "final_returns": [4.0, 6.0]}),
        ("b0", {"seed": 0, "preset": "1m"}),
        ("c0", {"seed": 0, "env": "dmc:finger-spin"}),
        ("d0", {"seed": 0}),
        ("e<0", {"seed": 0}),
    ):
        (directory / name).mkdir(parents=True)
        finals = changes.pop("final_returns", [3.0, 5.0])
        result = json.loads(written(directory / name / "result.json", **{"steps": 100, **changes}).read_text())  # type: ignore[arg-type]
        result |= {"final_returns": finals, "training_seconds": 90.0, "final_mean_return": 5.0}
        (directory / name / "config.json").write_text(json.dumps({"recipe": "tdmpc2", "config": result["config"]}))
        (directory / name / "result.json").write_text(json.dumps(result))
    (directory / "d0" / "result.json").unlink()
    result = json.loads((directory / "e<0" / "result.json").read_text())
    result |= {"final_returns": [], "final_mean_return": None}
    result["evaluations"] = [{"agent_steps": 100, "returns": [], "statistics": {"prediction error": 0.5}}]
    (directory / "e<0" / "result.json").write_text(json.dumps(result))
    (directory / "a0.log").touch()
    (directory / "notes").mkdir()
    return directory


def test_the_runs_of_a_directory_make_one_page_with_a_row_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = swept(tmp_path / "a sweep")
    cli.main(["compare", str(directory)])
    printed = capsys.readouterr().out
    assert "dmc:cup-catch" in printed
    assert "dmc:finger-spin" in printed
    page = (directory / "compare.html").read_text()
    assert page.count("<img ") == 2  # a picture for each task
    assert "<h1>a sweep: 4 of 6 runs finished</h1>" in page
    rows = [
        re.sub("<[^>]+>", "|", row) for row in page.split("<h2>Runs</h2>")[1].split("</table>")[0].split("<tr>")[2:]
    ]
    cells = [[cell for cell in row.split("|") if cell.strip()] for row in rows]
    assert [row[:2] for row in cells] == [
        ["a0", "finished"], ["a1", "finished"], ["b0", "finished"], ["c0", "finished"], ["d0", "not finished"],
        ["e&lt;0", "not comparable"],
    ]  # fmt: skip
    assert cells[0] == ["a0", "finished", "100 of 100", "4.000", "4.000", "1.5"]
    assert "judged by [&#x27;prediction error&#x27;]" in cells[5][-1]
    assert '<a href="../a%20sweep/a0.log">' in page or '<a href="a0.log">' in page
    # IQM of 3, 5, 4, 6 without the lowest and the highest
    assert "<td>4.500<br>[" in page.replace(",", "")
    assert "goes on by the sweep&#x27;s command" in page


def test_a_page_is_written_where_it_is_asked_for_and_a_directory_without_runs_is_none(tmp_path: Path) -> None:
    directory = swept(tmp_path / "runs")
    cli.main(["compare", str(directory), "--output", str(tmp_path / "page.html")])
    assert '<a href="runs/a0.log">' in (tmp_path / "page.html").read_text()
    assert not (directory / "compare.html").exists()
    assert runs_in(directory / "a0") == runs_in(directory / "notes") == runs_in(tmp_path / "nowhere") == []
