"""Help, the list of models and refusals come before anything heavy is imported: imports are counted, not seconds."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from worldloom_rl.recipes import dreamerv3, jepa, tdmpc2, tokens

# What the command line is made of; whatever else is installed comes when a command needs it.
LIGHT = {"worldloom_rl", "tyro", "docstring_parser", "typing_extensions", "typeguard"}

FAMILIES = ("dreamerv3", "jepa", "tdmpc2", "tokens")
COMMANDS = (
    "check", "train", "finetune", "sweep", "resume", "eval", "imagine", "report", "compare", "play", "export", "list",
    "import",
)  # fmt: skip
HELP = [
    [],
    ["--help"],
    *([command, "--help"] for command in COMMANDS),
    *([command, family, "--help"] for command in ("train", "sweep") for family in FAMILIES),
    *(["import", family, "--help"] for family in ("dreamerv3", "lewm", "newt", "tdmpc2", "vjepa2")),
]
REFUSED = [
    (["tarin"], "Perhaps you meant 'train'"),
    (["--stepz"], "'--stepz' is no command of worldloom"),
    (["train"], "tdmpc2"),
    (["train", "tdmpc3"], "tdmpc3"),
    (["train", "tdmpc2"], "--env"),
    (["train", "tdmpc2", "--env", "Pendulum-v1", "--stesp", "3"], "--steps"),
    (["train", "dreamerv3", "--env", "Pendulum-v1", "--steps", "many"], "many"),
    (
        ["train", "tokens", "--env", "Pendulum-v1", "--steps", "0"],
        "worldloom: --steps must be a whole number in [1, ",
    ),
    (["train", "jepa"], "name one"),
    (["train", "jepa", "--env", "Pendulum-v1", "--held-out", "1.5"], "worldloom: --held-out must be a share"),
    (["train", "tdmpc2", "--env", "Pendulum-v1", "--replay-gb", "nan"], "worldloom: --replay-gb must be a number in"),
    (["train", "dreamerv3", "--env", "Pendulum-v1", "--memmap-above-gb", "-1"], "worldloom: --memmap-above-gb must be"),
    (["train", "dreamerv3", "--env", "Pendulum-v1", "--target-return", "inf"], "--target-return must be a number or"),
    (["train", "tdmpc2", "--env", "Pendulum-v1", "--num-envs", f"{10**400}"], "--num-envs must be a whole number in"),
    (["train", "tdmpc2", "--env", "Pendulum-v1", "--seed", "-1"], "--seed must be a whole number in [0, 2147483647]"),
    (["sweep", "dreamerv3", "--directory", "d"], "worldloom: A sweep needs environments: --envs"),
    (["sweep", "tdmpc2", "--directory", "d"], "worldloom: TD-MPC2 learns one environment (--env) or several (--tasks)"),
    (["sweep", "tdmpc2", "--env", "Pendulum-v1"], "--directory"),
    (["sweep", "tdmpc2", "--env", "A-v1", "--directory", "d", "--seeds", "7", "7"], "--seeds must name each only once"),
    (
        ["sweep", "tokens", "--env", "A-v1", "--directory", "d", "--seeds", "-1"],
        "--seed must be a whole number in [0, ",
    ),
    (["sweep", "jepa", "--env", "A-v1", "--directory", "d", "--steps", "0"], "--steps must be a whole number in [1, "),
    (["sweep", "jepa", "--env", "A-v1", "--directory", "d", "--cpus", "0"], "--cpus must be a number in [0.01, 1024]"),
    (["sweep", "jepa", "--env", "A-v1", "--directory", "d", "--device", "cuda"], "needs a share of a GPU for each run"),
    (["sweep", "tdmpc2", "--envs", "a:b", "a-b", "--directory", "d"], "would both be tdmpc2-a-b-tiny-seed0 in d"),
    (["check", "Pendulum-v1", "--time-limit", "0"], "--time-limit must be a whole number in [1, 1000000000], got 0."),
    (["check", "Pendulum-v1", "--action-repeat", "-2"], "--action-repeat must be a whole number in [1, 1000], got -2."),
    (["eval", "run", "--seeds", "0", "-3"], "--seeds must be a whole number in [0, 2147483647], got -3."),
    (["play", "run", "--port", "65536"], "--port must be a whole number in [0, 65535], got 65536."),
    (["imagine", "run", "--samples", "1000000"], "--samples must be a whole number in [1, 10000], got 1000000."),
    (["finetune"], "Missing from worldloom finetune"),
    (["finetune", "run"], "env names the environment that the model goes on in"),
    (["finetune", "run", "--env", "A-v1", "--frame-skip", "0"], "--frame-skip must be a whole number in [1, 1000]"),
    (["report", "run", "--seed", "-1"], "--seed must be a whole number in"),
    (["check"], "worldloom check needs the name of an environment"),
    (["check", "Pendulum-v1", "--pixles"], "--pixels"),
    (["resume"], "Missing from worldloom resume"),
    (["resume", "run", "again"], "again"),
    (["resume", "run", "--steps", "0"], "worldloom: --steps must be a whole number in [1, "),
    (["resume", "run", "--from", "-1"], "worldloom: --from must be a whole number in [0, "),
    (["eval", "run", "--episods", "3"], "--episodes"),
    (["eval", "run", "--episodes", "0"], "worldloom: --episodes must be a whole number in [1, 4096], got 0."),
    (["eval", "run", "--seeds", "7", "7"], "each only once"),
    (["imagine", "run", "--context", "0"], "--context must be a whole number in [1, 10000], got 0."),
    (["imagine", "run", "--horizon", "0"], "--horizon must be a whole number in [1, 10000], got 0."),
    (["report", "run", "--steps", "1"], "--steps must be a whole number in [2, 1000000000], got 1."),
    (
        ["import", "tdmpc2", "a.pt", "out", "--discount", "nan"],
        "worldloom: --discount must be a number in [0.0, ",
    ),
    (["import", "dreamerv3", "logs", "out", "--groups", "0"], "worldloom: --groups must be a whole number in"),
    (["import", "vjepa2", "a.pt", "out", "--image-size", "-1"], "worldloom: --image-size must be a whole number in"),
    (["compare", "--outptu", "x.png"], "--output"),
    (["export", "run"], "Missing from worldloom export"),
    (["list", "tdmpc2:*", "jepa:*"], "jepa"),
    (["import"], "vjepa2"),
    (["import", "dreamerv4"], "dreamerv4"),
    (["import", "tdmpc2", "checkpoint.pt"], "Missing from worldloom import tdmpc2"),
]

# Runs each command in turn and writes, as a line of JSON, how it ended and which installed packages it imported.
PROGRAM = """
import contextlib, io, json, sys

def packages():
    return {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)

before = packages()
from worldloom_rl.cli import main

for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    status = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stopped:
            status = stopped.code
    came = sorted(packages() - before)
    before |= packages()
    print(json.dumps([status, out.getvalue(), err.getvalue(), came]))
"""


class Answer(NamedTuple):
    """How a command ended: its exit status, what it printed, and the packages that only it imported."""

    status: int | None
    out: str
    err: str
    imported: list[str]


def ask(commands: list[list[str]]) -> list[Answer]:
    """The answers of a fresh interpreter, the first of which has the imports of the command line itself."""
    asked = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    return [Answer(*json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, ...], Answer]:
    commands = [*HELP, *(arguments for arguments, _ in REFUSED)]
    return dict(zip(map(tuple, commands), ask(commands), strict=True))


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str], answers: dict[tuple[str, ...], Answer]) -> None:
    answer = answers[tuple(arguments)]
    assert answer.status in (None, 0)
    assert "usage: worldloom" in answer.out
    assert set(answer.imported) <= LIGHT


@pytest.mark.parametrize(
    ("arguments", "said"), REFUSED, ids=lambda value: "" if isinstance(value, str) else " ".join(value)
)
def test_a_refusal_names_the_mistake_and_imports_nothing_heavy(
    arguments: list[str], said: str, answers: dict[tuple[str, ...], Answer]
) -> None:
    answer = answers[tuple(arguments)]
    assert answer.status == 2
    assert said in " ".join(answer.err.replace("│", " ").split())
    assert answer.out == ""
    assert set(answer.imported) <= LIGHT


@pytest.mark.parametrize("arguments", [["list"], ["list", "tdmpc2:*"], ["list", "nothing"]], ids=" ".join)
def test_the_list_of_models_imports_nothing_heavy(arguments: list[str]) -> None:
    (answer,) = ask([arguments])
    assert answer.status is None
    assert ("tdmpc2:5m" in answer.out.split()) == (arguments[1:] != ["nothing"])
    assert set(answer.imported) <= LIGHT


@pytest.mark.parametrize("recipe", [dreamerv3, jepa, tdmpc2, tokens], ids=FAMILIES)
def test_help_tells_of_every_option_of_a_recipe(recipe: object, answers: dict[tuple[str, ...], Answer]) -> None:
    name, config = recipe.RECIPE.name, recipe.Config  # type: ignore[attr-defined]
    told, swept = (answers[command, name, "--help"].out for command in ("train", "sweep"))
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in told
        if field.name.startswith(("actor", "ray")):  # the runs of a sweep collect by themselves
            continue
        assert f"--{field.name.replace('_', '-').replace('run-directory', 'directory')}" in swept


def test_a_reader_that_has_read_enough_ends_a_command_quietly() -> None:
    command = [sys.executable, "-c", "from worldloom_rl.cli import main; main()", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        assert listing.stdout
        assert listing.stderr
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 141  # as a program that SIGPIPE ends
