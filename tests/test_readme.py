"""The README's commands, examples and numbers."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "tests" / "learning" / "results"


def test_there_are_exactly_two_commands() -> None:
    blocks = re.findall(r"(<!-- command: \w+ -->)\n```bash\n(.*?)```", README, re.DOTALL)
    assert [marker for marker, _ in blocks] == ["<!-- command: train -->", "<!-- command: test -->"]
    assert all(len(command.strip().splitlines()) == 1 for _, command in blocks)
    assert README.count("```bash") == 2


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fresh weights.*")
        exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


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


def measured_rows() -> list[str]:
    section = README.split("## Measured")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|") and re.search(r"\d", line)]


@pytest.mark.parametrize("row", measured_rows())
def test_every_measured_number_occurs_in_the_result_file_that_its_row_names(row: str) -> None:
    """The last cell names the file; every other cell's numbers, rounded as written, stand in it."""
    *cells, source = row.strip("| ").split("|")
    (name,) = re.findall(r"([\w.-]+\.json)", source)
    known = list(numbers(json.loads((RESULTS / name).read_text())))
    for cell in cells[1:]:  # the first cell names the task
        for text in re.findall(r"−?\d[\d,]*(?:\.\d+)?", cell):
            decimals = len(text.partition(".")[2])
            number = float(text.replace("−", "-").replace(",", ""))
            assert any(round(value, decimals) == number for value in known), f"{text} is not in {name}"


def test_no_measured_result_is_written_outside_the_table() -> None:
    section = README.split("## Measured")[1].split("\n## ")[0]
    prose = " ".join(line for line in section.splitlines() if not line.startswith("|"))
    assert not re.findall(r"−\d+\.\d|\d+(?:\.\d+)? (?:s|seconds|times faster|x faster)\b", prose)


def test_there_is_something_measured() -> None:
    assert len(measured_rows()) >= 6
