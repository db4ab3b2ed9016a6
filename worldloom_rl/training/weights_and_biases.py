"""A run's logger of Weights & Biases: a run that is resumed goes on in the run that it began there."""

from __future__ import annotations

from pathlib import Path

from torchrl.record import WandbLogger

_PROJECT = "worldloom"
_FILE = Path("logs", "wandb_id")


def wandb_logger(run: Path) -> WandbLogger:
    """The logger of a run's directory, where its name at Weights & Biases is kept; a second one goes on there.

    Raises wandb's own error if that run is gone: with the file logs/wandb_id removed, a new one begins.
    """
    file = run / _FILE
    if file.is_file():
        known = {"id": file.read_text("utf-8").strip(), "resume": "must"}
        return WandbLogger(run.name, save_dir=str(file.parent), project=_PROJECT, **known)
    logger = WandbLogger(run.name, save_dir=str(file.parent), project=_PROJECT)
    file.write_text(logger.experiment.id, "utf-8")
    return logger
