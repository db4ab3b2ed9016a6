"""The directory of a run: configuration, logs, checkpoints, learning curve and result."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torchrl.record import CSVLogger, TensorboardLogger, WandbLogger
from torchrl.record.loggers.common import Logger

from worldloom_rl.atomic import write_json, write_text
from worldloom_rl.config import Json
from worldloom_rl.training.checkpoint import Checkpoints
from worldloom_rl.training.weights_and_biases import wandb_logger

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"
CURVE_FILE = "curve.png"
IMAGINATION_FILE = "imagination.png"
METRICS_FILE = "metrics.csv"
PROFILE_FILE = "profile.json"
_LOGS = "logs"


class RunDirectory:
    """Files of one run: config.json, metrics.csv, logs/ (CSV and TensorBoard), checkpoints/, curve.png, result.json."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.clock = "agent_steps"  # what `log` counts in
        self.wandb = False  # whether to log to Weights & Biases too
        self._loggers: list[Logger] = []
        self._made: list[Path] = []  # directories that `create` made, the run's own first

    @property
    def resume_command(self) -> str:
        """What a person types to go on, as a shell takes it."""
        return f"worldloom resume {shlex.quote(str(self.path))}"

    @classmethod
    def create(cls, path: str | Path | None, name: str, recipe: str, config: Mapping[str, Json]) -> RunDirectory:
        """A new run directory with its configuration. Raises FileExistsError if the path holds a run already."""
        chosen = Path(path) if path else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if path and (chosen / CONFIG_FILE).exists():
            raise FileExistsError(
                f"{chosen} holds a run already. Continue it with {cls(chosen).resume_command}, or choose another."
            )
        made = [folder for folder in (chosen, *chosen.parents) if not folder.exists()]
        if path:
            chosen.mkdir(parents=True, exist_ok=True)
        else:
            chosen = _make_unused(chosen)
            made = [chosen, *(folder for folder in made if folder in chosen.parents)]
        write_json(chosen / CONFIG_FILE, {"recipe": recipe, "config": dict(config)})
        run = cls(chosen)
        run._made = made
        return run

    @contextmanager
    def unless_the_start_fails(self) -> Iterator[None]:
        """If the block raises, what `create` made is removed: the name can be used again."""
        try:
            yield
        except BaseException:
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
            if self.path in self._made:
                shutil.rmtree(self.path)
            for folder in self._made[1:]:
                with suppress(OSError):  # another run began in it
                    folder.rmdir()
            raise

    def read_config(self) -> tuple[str, dict[str, Json]]:
        """The recipe's name and its configuration.

        Raises FileNotFoundError or ValueError if this is no run directory.
        """
        file = self.path / CONFIG_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{self.path} holds no {CONFIG_FILE}; it is not a run directory of worldloom.")
        try:
            data = json.loads(file.read_text("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{file} is no JSON ({error}); {self.path} is not a run directory of worldloom."
            ) from error
        if isinstance(data, dict) and "model_type" in data:
            raise ValueError(f"{self.path} is a saved model, not a run: load it with AutoWorldModel.from_pretrained.")
        if not (
            isinstance(data, dict) and isinstance(data.get("recipe"), str) and isinstance(data.get("config"), dict)
        ):
            raise ValueError(
                f'{file} must have a "recipe" by name and its "config"; {self.path} is not a run directory.'
            )
        return data["recipe"], data["config"]

    def log(self, metrics: Mapping[str, float], count: int) -> None:
        """Scalars to CSV and TensorBoard, at that number of agent steps, or of what `clock` names."""
        logs = str(self.path / _LOGS)
        if not self._loggers:
            self._loggers = [CSVLogger("csv", log_dir=logs), TensorboardLogger("tensorboard", log_dir=logs)]
        # Not while `cut_logs` writes anew what an earlier process logged there already.
        if self.wandb and not any(isinstance(logger, WandbLogger) for logger in self._loggers):
            self._loggers.append(wandb_logger(self.path))
        for logger in self._loggers:
            for name, value in metrics.items():
                logger.log_scalar(name, value, step=count)

    def close(self) -> None:
        """Write out what is logged, also as one table metrics.csv; a later `log` opens the files again."""
        for logger in self._loggers:
            if isinstance(logger, TensorboardLogger):
                logger.experiment.close()
            if isinstance(logger, CSVLogger):
                for file in logger.experiment.files.values():
                    file.close()
        self._loggers = []
        scalars = self.path / _LOGS / "csv" / "scalars"
        table: dict[int, dict[str, Json]] = {}
        for file in sorted(scalars.rglob("*.csv")):
            for step, value in _logged(file):
                table.setdefault(step, {self.clock: step})[_name(file, scalars)] = value
        if table:
            names = {name for row in table.values() for name in row} - {self.clock}
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, [self.clock, *sorted(names)])
            writer.writeheader()
            writer.writerows(table[step] for step in sorted(table))
            write_text(self.path / METRICS_FILE, text.getvalue())

    def cut_logs(self, count: int) -> None:
        """Take back what a run logged beyond this count before it was stopped."""
        scalars = self.path / _LOGS / "csv" / "scalars"
        shutil.rmtree(self.path / _LOGS / "tensorboard", ignore_errors=True)  # written anew from the CSV files
        for file in sorted(scalars.rglob("*.csv")):
            kept = [(step, value) for step, value in _logged(file) if step <= count]
            file.unlink()
            for step, value in kept:
                self.log({_name(file, scalars): value}, step)

    def write_result(self, result: Mapping[str, Json]) -> Path:
        """result.json with where and with what it was made added."""
        file = self.path / RESULT_FILE
        write_json(file, {**result, **provenance()})
        return file


def _logged(file: Path) -> Iterator[tuple[int, float]]:
    """Steps and values of a scalar's CSV file, without a last line that was cut off."""
    for line in file.read_text().splitlines():
        step, comma, value = line.partition(",")
        if comma and value:
            yield int(step), float(value)


def _name(file: Path, scalars: Path) -> str:
    return str(file.relative_to(scalars).with_suffix(""))


def _make_unused(directory: Path) -> Path:
    """The directory, newly made, or one with a number behind its name if somebody made that already."""
    chosen, number = directory, 1
    while True:
        try:
            chosen.mkdir(parents=True)
            return chosen
        except FileExistsError:
            number += 1
            chosen = directory.with_name(f"{directory.name}-{number}")


def provenance() -> dict[str, Json]:
    """Commit and tree of the code (None when installed from a wheel), library versions and the machine."""
    packages = ("worldloom-rl", "torch", "torchrl", "tensordict", "gymnasium")
    commit, tree = _git("describe", "--always", "--dirty", "--abbrev=40"), _git("rev-parse", "HEAD^{tree}")
    if commit and tree and commit.endswith("-dirty"):
        tree += "-dirty"
    return {
        "commit": commit,
        "tree": tree,  # names the files alone, which another commit may hold too
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
