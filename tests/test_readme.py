"""The first page and the pages that it leads to: commands, examples, links and numbers."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_layers import LEVELS

from worldloom_rl.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HOW_TOS = ROOT / "tutorials" / "README.md"
LEARNING = ROOT / "tests" / "learning" / "README.md"
SPEED = ROOT / "tests" / "benchmarks" / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
RESULTS = ROOT / "tests" / "learning" / "results"


def section(page: Path, title: str) -> str:
    return page.read_text().split(f"## {title}\n")[1].split("\n## ")[0]


# ------------------------------------------------------------------ commands and examples


def test_there_are_exactly_two_commands() -> None:
    text = README.read_text()
    blocks = re.findall(r"(<!-- command: \w+ -->)\n```bash\n(.*?)```", text, re.DOTALL)
    assert [marker for marker, _ in blocks] == ["<!-- command: train -->", "<!-- command: test -->"]
    assert all(len(command.strip().splitlines()) == 1 for _, command in blocks)
    assert text.count("```bash") == 2


def run(code: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fresh weights.*")
        exec(compile(code, "page", "exec"), {"__name__": "page"})


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    run(example, tmp_path, monkeypatch)
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


HOW_TO_EXAMPLES = re.findall(
    r"\n## (\d+)\. [^\n]*\n(?:(?!\n## ).)*?```python\n(.*?)```", HOW_TOS.read_text(), re.DOTALL
)


@pytest.mark.parametrize("code", [pytest.param(code, id=number) for number, code in HOW_TO_EXAMPLES])
def test_the_python_of_a_how_to_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(code, tmp_path, monkeypatch)


def test_the_how_tos_are_numbered_and_none_of_their_python_is_left_out() -> None:
    text = HOW_TOS.read_text()
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, 1 + len(numbers)))
    assert len(HOW_TO_EXAMPLES) == text.count("```python") > 0


def commands() -> list[str]:
    """The lines of all pages that begin with `worldloom` and are set as code."""
    pages = (README, HOW_TOS, LEARNING, SPEED)
    return [line for page in pages for line in re.findall(r"^    (worldloom .*)$", page.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_exists_and_has_the_flags_that_it_is_given(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, name, *rest = command.split()
    given = [name, *rest[:1]] if name in ("train", "sweep", "import") else [name]
    with pytest.raises(SystemExit) as ended:
        main([*given, "--help"])
    assert ended.value.code in (0, None)
    known = capsys.readouterr().out
    assert "usage" in known.lower()
    for flag in re.findall(r"(--[\w-]+)", command):
        assert flag in known, f"worldloom {' '.join(given)} has no {flag}"


# ------------------------------------------------------------------ links and size


@pytest.mark.parametrize("page", [README, HOW_TOS, LEARNING, SPEED, CONTRIBUTING], ids=lambda page: page.parent.name)
def test_a_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} leads to {target}"


def test_the_first_page_is_two_screens_and_shows_a_dream_early_and_published_tasks_where_it_tells_of_them() -> None:
    text = README.read_text()
    assert len(text.encode()) <= 9500
    assert text.count("![") == 2
    assert "published-tasks.png" in section(README, "Measured")
    assert "![" in "\n".join(text.splitlines()[:8])


def test_the_map_names_every_part_of_the_package_once() -> None:
    rows = [line for line in section(README, "The package").splitlines() if line.startswith("| `")]
    named = [name.rstrip("/") for row in rows for name in re.findall(r"`([\w/]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(set(LEVELS) - {"__main__"})


# ------------------------------------------------------------------ numbers


def numbers(value: object) -> Iterator[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def measured(page: Path) -> str:
    """What a page tells of results, but for tables that a test holds to what their script makes of the files."""
    text = section(page, "Measured") if page == README else page.read_text()
    return re.sub(r"<!-- (\w+\.py) -->.*<!-- end of \1 -->", "", text, flags=re.DOTALL)


def measured_rows() -> list[str]:
    lines = [line for page in (README, LEARNING, SPEED) for line in measured(page).splitlines()]
    return [line for line in lines if line.startswith("|") and re.search(r"\d", line)]


@pytest.mark.parametrize("row", measured_rows())
def test_every_measured_number_occurs_in_the_result_file_that_its_row_names(row: str) -> None:
    """The last cell names the file, or with a * for the seed those of all seeds; every other cell's numbers, rounded
    as written, stand in it, and of several seeds in their order."""
    *cells, source = row.strip("| ").split("|")
    (name,) = re.findall(r"([\w.*-]+\.json)", source)
    files = sorted(RESULTS.glob(name))
    assert files
    known = [list(numbers(json.loads(file.read_text()))) for file in files]
    for cell in cells[1:]:  # the first cell names the task
        found = re.findall(r"−?\d[\d,]*(?:\.\d+)?(?!\d)", re.sub(r", ", " ", cell))
        assert len(files) == 1 or len(found) == len(files)
        for place, text in enumerate(found):
            decimals = len(text.partition(".")[2])
            number = float(text.replace("−", "-").replace(",", ""))
            seed = place if len(files) > 1 else 0
            assert any(round(value, decimals) == number for value in known[seed]), f"{text} is not in {files[seed]}"


def test_the_rates_of_the_how_to_follow_from_its_times() -> None:
    rows = [line for line in HOW_TOS.read_text().splitlines() if re.match(r"\| (TD-MPC2|DreamerV3) ", line)]
    lines = [line for line in rows if line.count("|") == 10]
    assert len(lines) == 4
    for line in lines:
        acting, more, env, update, share, *rates = map(float, line.strip("| ").split("|")[1:])
        rounds = [acting + (count - 1) * more + count * (env + share * update) for count in (1, 16)]
        expected = [1000 / rounds[0], 16_000 / rounds[1], 1000 / (share * update)]
        assert rates == [round(rate) for rate in expected]


@pytest.mark.parametrize("page", [README, LEARNING, SPEED], ids=lambda page: page.parent.name)
def test_no_measured_result_is_written_outside_the_tables(page: Path) -> None:
    prose = " ".join(line for line in measured(page).splitlines() if not line.startswith("|"))
    assert not re.findall(r"−\d+\.\d|\d+(?:\.\d+)? (?:s|seconds|times faster|x faster)\b", prose)


def test_there_are_ten_claims_on_the_first_page_and_all_rows_behind_them() -> None:
    assert len([line for line in measured(README).splitlines() if re.search(r"\.json \|$", line)]) == 10
    assert len(measured_rows()) >= 80
