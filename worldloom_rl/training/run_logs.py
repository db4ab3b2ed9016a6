"""The logs of a run: scalars as CSV and TensorBoard files while it goes on, and as one table when it ends."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torchrl.record import CSVLogger, TensorboardLogger
from torchrl.record.loggers.common import Logger

from worldloom_rl import ranks
from worldloom_rl.atomic import write_text
from worldloom_rl.config import Json
from worldloom_rl.training.weights_and_biases import wandb_logger

METRICS_FILE = "metrics.csv"
_EVALUATION = "evaluation/"  # names of scalars that tell of one


class RunLogs:
    """Scalars of a run, each in a CSV file under logs/, in TensorBoard's file there, and in metrics.csv at the end.

    Args:
        run: directory.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.clock = "agent_steps"  # what `log` counts in
        self.wandb = False  # whether to log to Weights & Biases too
        self._loggers: list[Logger] = []
        self._logs = run / "logs"
        self._scalars = self._logs / "csv" / "scalars"

    def log(self, metrics: Mapping[str, float], count: int) -> None:
        """Scalars at that number of agent steps, or of what `clock` names; of several processes, the first one's.

        Raises FileNotFoundError if the logs that were written so far are gone, mostly with the whole run.
        """
        if ranks.rank():
            return
        if not (self._scalars if self._loggers else self.run).is_dir():  # TensorBoard's thread finds it out much later
            raise FileNotFoundError(
                f"{self.run}, or its logs, was removed or moved while the run went on, which ends here: go on where it "
                "is now (worldloom resume), or train anew."
            )
        if not any(isinstance(logger, CSVLogger) for logger in self._loggers):
            self._loggers = [*self._tensorboard(), CSVLogger("csv", log_dir=str(self._logs))]
            if self.wandb:
                self._loggers.append(wandb_logger(self.run))
        _log(self._loggers, metrics, count)

    def close(self) -> None:
        """Write out what is logged, also as one table; a later `log` opens the files again."""
        if ranks.rank():
            return
        loggers, self._loggers = self._loggers, []
        for logger in reversed(loggers):  # TensorBoard's last: it fails where its file is gone
            if isinstance(logger, TensorboardLogger):
                logger.experiment.close()
            if isinstance(logger, CSVLogger):
                for file in logger.experiment.files.values():
                    file.close()
        table: dict[int, dict[str, Json]] = {}
        for name, file in self._files():
            for step, value in _logged(file):
                table.setdefault(step, {self.clock: step})[name] = float(value)
        if table:
            names = {name for row in table.values() for name in row} - {self.clock}
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, [self.clock, *sorted(names)])
            writer.writeheader()
            writer.writerows(table[step] for step in sorted(table))
            write_text(self.run / METRICS_FILE, text.getvalue())

    def last_evaluation(self) -> dict[str, float]:
        """What each statistic of evaluations came to when it was last logged."""
        logged = {name: [float(value) for _, value in _logged(file)] for name, file in self._files()}
        return {
            name[len(_EVALUATION) :]: values[-1]
            for name, values in logged.items()
            if name.startswith(_EVALUATION) and values
        }

    def cut(self, count: int, evaluated: int) -> None:
        """Take back what a run logged beyond this count before it was stopped.

        Each file is replaced by a shorter one that is on the disk already; TensorBoard's is written anew from these.

        Args:
            evaluated: how many evaluations of this very count the run goes on with; others that were logged there will
                come again, or belong to an end that is none any more.
        """
        kept: list[tuple[int, str, float]] = []
        for name, file in self._files():
            rows = [(step, value) for step, value in _logged(file) if step <= count]
            if name.startswith(_EVALUATION):
                earlier = [row for row in rows if row[0] < count]
                rows = rows[: len(earlier) + evaluated]
            text = "".join(f"{step},{value}\n" for step, value in rows)
            if text != file.read_text("utf-8"):
                write_text(file, text)
            kept += [(step, name, float(value)) for step, value in rows]
        shutil.rmtree(self._logs / "tensorboard", ignore_errors=True)
        for step, name, value in sorted(kept, key=lambda row: row[0]):
            _log(self._tensorboard(), {name: value}, step)

    def remove(self) -> None:
        """Takes back all that was logged."""
        shutil.rmtree(self._logs, ignore_errors=True)
        (self.run / METRICS_FILE).unlink(missing_ok=True)

    def _tensorboard(self) -> list[Logger]:
        """TensorBoard's logger, the same until `close`."""
        if not self._loggers:
            self._loggers = [TensorboardLogger("tensorboard", log_dir=str(self._logs))]
        return self._loggers[:1]

    def _files(self) -> Iterator[tuple[str, Path]]:
        """The CSV files and what they are of."""
        for file in sorted(self._scalars.rglob("*.csv")):
            yield str(file.relative_to(self._scalars).with_suffix("")), file


def _log(loggers: Iterable[Logger], metrics: Mapping[str, float], count: int) -> None:
    for logger in loggers:
        for name, value in metrics.items():
            logger.log_scalar(name, value, step=count)


def _logged(file: Path) -> Iterator[tuple[int, str]]:
    """Steps and values of a scalar's CSV file, without a last line that was cut off. Raises ValueError for another."""
    if not file.is_file():
        raise ValueError(f"{file} is no regular file; remove it.")
    for line in file.read_text("utf-8", errors="replace").splitlines(keepends=True):
        step, _, value = line.partition(",")
        if line.endswith("\n"):
            try:
                yield int(step), str(float(value))
            except ValueError as error:
                raise ValueError(f"{file} is damaged: {line!r:.80} is no step and value. Remove the line.") from error
