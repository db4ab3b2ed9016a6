"""The directory of a run: configuration, logs, checkpoints, learning curve and result."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch

from worldloom_rl import ranks
from worldloom_rl.atomic import write_json
from worldloom_rl.config import Json
from worldloom_rl.training import torchrun
from worldloom_rl.training.checkpoint import Checkpoints, counts_of
from worldloom_rl.training.clock import Clock, Counts
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.manifest import read_json
from worldloom_rl.training.next_command import typed
from worldloom_rl.training.owner import Owner
from worldloom_rl.training.run_logs import RunLogs
from worldloom_rl.training.trust import remember, require_trust, trust

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"
CURVE_FILE = "curve.png"
IMAGINATION_FILE = "imagination.png"
PROFILE_FILE = "profile.json"
COMPILATION_FILE = "compilation.json"  # whether a run that was not told compiled its model, and where
_LONGEST_NAME = 100  # characters of a name that was not chosen; file systems take 255 bytes


class RunDirectory:
    """Files of one run: config.json, metrics.csv, logs/ (CSV and TensorBoard), checkpoints/, curve.png, result.json."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.logs = RunLogs(self.path)
        self._owner: Owner | None = None
        self._made: list[Path] = []  # directories that `create` made, the run's own first

    @property
    def resume_command(self) -> str:
        """What a person types to go on, as a shell takes it; the same number of processes does."""
        return torchrun.command() + typed("resume", self.path)

    @classmethod
    def create(cls, path: str | Path | None, name: str, recipe: str, config: Mapping[str, Json]) -> RunDirectory:
        """A new run directory with its configuration, owned by this process until `owned` ends.

        Raises FileExistsError if the path holds a run already, BlockingIOError if another process works on it.
        """
        chosen = Path(path) if path else Path("runs") / f"{name[:_LONGEST_NAME]}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            made = [folder for folder in (chosen, *chosen.parents) if not folder.exists()]
            chosen = _make(chosen) if path else _make_unused(chosen)
        except OSError as error:
            raise type(error)(
                f"The run directory {chosen} cannot be made ({error.strerror}); choose another (--run-directory)."
            ) from error
        run = cls(chosen)
        run._made = made if path else [chosen, *(folder for folder in made if folder in chosen.parents)]
        try:
            run._owner = Owner(chosen)
            if (chosen / CONFIG_FILE).exists():
                raise FileExistsError(run._holds_a_run())
            remember(chosen, config)
            write_json(chosen / CONFIG_FILE, {"recipe": recipe, "config": dict(config)})
        except BaseException:
            run._let_go()
            for folder in run._made:
                with suppress(OSError):  # another run is in it
                    folder.rmdir()
            raise
        return run

    def _holds_a_run(self) -> str:
        if self.checkpoints.all():
            return f"{self.path} holds a run already. Continue it with {self.resume_command}, or choose another."
        return (
            f"{self.path} holds a run that ended before its first checkpoint, so that worldloom resume has nothing to "
            "go on from. Remove it, or choose another."
        )

    def holds_a_run(self) -> bool:
        """Whether a run began here, or something that is none stands in its place."""
        return (self.path / CONFIG_FILE).exists()

    def is_finished(self, steps: int) -> bool:
        """Whether the result is here of a run of so many steps, as its configuration counts them."""
        file = self.path / RESULT_FILE
        try:
            return file.is_file() and read_json(file)["config"]["steps"] == steps
        except (ValueError, LookupError, TypeError):
            return False

    def start_over(self) -> None:
        """Removes what a run wrote that ended before its first checkpoint, so that it can begin anew; of several
        processes the first one does.

        Raises BlockingIOError if another process works on it.
        """
        if ranks.rank() or not self.holds_a_run():
            return
        with self.owned():
            self.checkpoints.clean()
            self.logs.remove()
            (self.path / COMPILATION_FILE).unlink(missing_ok=True)
            (self.path / CONFIG_FILE).unlink(missing_ok=True)  # last: without it, this is no run any more

    @contextmanager
    def owned(self) -> Iterator[None]:
        """While the block runs, no other process trains or resumes here. Raises BlockingIOError if one does.

        Of several that learn together the first has the directory.
        """
        if ranks.rank():
            yield
            return
        self._owner = self._owner or Owner(self.path)
        try:
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._owner is not None:
            self._owner.release()
            self._owner = None

    @contextmanager
    def unless_the_start_fails(self) -> Iterator[None]:
        """If the block raises, what `create` made is removed: the name can be used again."""
        try:
            yield
        except BaseException:
            if ranks.rank():
                raise
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
            if self.path in self._made:
                shutil.rmtree(self.path)  # while it is owned: nobody else has begun in it
            self._let_go()
            for folder in self._made[1:]:
                with suppress(OSError):  # another run began in it
                    folder.rmdir()
            raise

    def read_config(self) -> tuple[str, dict[str, Json]]:
        """The recipe's name and its configuration.

        Raises FileNotFoundError or ValueError if this is no run directory, or one that asks for trust.
        """
        file = self.path / CONFIG_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{self.path} holds no {CONFIG_FILE}; it is not a run directory of worldloom.")
        try:
            data = json.loads(file.read_text("utf-8"))
        except (ValueError, RecursionError) as error:  # ValueError: no text, no JSON, a number of too many digits
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
        require_trust(self.path, data["config"])
        return data["recipe"], data["config"]

    def change_config(self, **changes: Json) -> None:
        """Other numbers in place of some of the configuration's."""
        recipe, config = self.read_config()
        write_json(self.path / CONFIG_FILE, {"recipe": recipe, "config": {**config, **changes}})

    def trust(self) -> None:
        """This user trusts what the run imports, from now on."""
        data = json.loads((self.path / CONFIG_FILE).read_text("utf-8"))
        if isinstance(data, dict) and isinstance(data.get("config"), dict):
            trust(self.path, data["config"])

    def way_back(self, checkpoint: Path, clock: Clock) -> str:
        """How to go on if that checkpoint is damaged, as a sentence."""
        whole = self.checkpoints.whole_before(checkpoint)
        if whole is None:
            return "No checkpoint before it is whole: train anew, or put back a copy."
        count = clock.count(counts_of(whole))
        command = typed("resume", self.path, "--from", count)
        return f"The checkpoint before it, of {count} {clock.words}, is whole; go back to it: {command}"

    def ended_with(self, counts: Counts, steps: int) -> list[Evaluation]:
        """The evaluations of a run of so many steps whose result has these counts; none where there is none."""
        file = self.path / RESULT_FILE
        try:
            result = read_json(file) if file.is_file() else {}
            ends = result["agent_steps"], result["updates"], result["config"]["steps"]
            made = [Evaluation(**values) for values in result["evaluations"]]
        except (ValueError, LookupError, TypeError):
            return []
        return made if ends == (*counts, steps) else []

    def remove_result(self) -> None:
        """What a run ended with that is gone back behind its end."""
        (self.path / RESULT_FILE).unlink(missing_ok=True)

    def write_result(self, result: Mapping[str, Json]) -> Path:
        """result.json with where and with what it was made added."""
        file = self.path / RESULT_FILE
        write_json(file, {**result, **provenance()})
        return file


def _make(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


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
