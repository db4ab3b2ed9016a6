"""Every tutorial runs, with a small budget."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.py"))


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_the_tutorial_runs(tutorial: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TUTORIAL_STEPS", "320")
    runpy.run_path(str(tutorial), run_name="__main__")
    assert "return" in capsys.readouterr().out


def test_the_first_tutorial_is_under_80_lines() -> None:
    assert len(TUTORIALS[0].read_text().splitlines()) < 80
