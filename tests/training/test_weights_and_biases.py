"""A resumed run goes on in the run that it began at Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from worldloom_rl.training import weights_and_biases


class Recorded:
    """Stands for TorchRL's logger: keeps what it was made with."""

    def __init__(self, name: str, **settings: str) -> None:
        self.name, self.settings = name, settings
        self.experiment = SimpleNamespace(id=settings.get("id", "abc123"))


def test_a_second_logger_goes_on_with_the_first_ones_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_and_biases, "WandbLogger", Recorded)
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    first, second = weights_and_biases.wandb_logger(run), weights_and_biases.wandb_logger(run)
    assert "id" not in first.settings
    assert second.settings["id"] == first.experiment.id
    assert second.settings["resume"] == "must"
