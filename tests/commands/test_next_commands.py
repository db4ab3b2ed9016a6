"""What a run says at its end: commands that a shell takes as they stand, whatever the run is called."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from worldloom_rl import cli
from worldloom_rl.commands.console import say, typed

SMALL = ("latent_dim=16", "encoder_dim=16", "mlp_dim=16", "num_bins=21", "batch_size=8", "num_samples=16",
         "num_elites=4", "num_policy_trajectories=2", "iterations=1")  # fmt: skip


def test_train_draws_a_picture_writes_a_card_and_names_commands_for_a_path_with_spaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "it's a [bold] :smile: run"
    cli.main(
        ["train", "tdmpc2", "--env", "Pendulum-v1", "--steps", "40", "--time-limit", "20", "--eval-episodes", "1",
         "--final-eval-episodes", "1", "--seed-steps", "20", "--run-directory", str(run), "--overrides", *SMALL]
    )  # fmt: skip
    told = capsys.readouterr().out
    assert f"{run} holds curve.png, imagination.png, README.md (the model card)" in told
    commands = [shlex.split(line)[:3] for line in told.splitlines() if line.startswith("  worldloom ")]
    assert commands == [["worldloom", command, str(run)] for command in ("eval", "imagine", "report", "resume")]
    assert (run / "imagination.png").read_bytes().startswith(b"\x89PNG")
    assert "library_name: worldloom-rl" in (run / "README.md").read_text()


def test_a_line_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"[red]runs/:smile:/{'x' * 300}[/red] 3.0 'text'"
    say(line)
    assert capsys.readouterr().out == line + "\n"


def test_a_command_is_quoted_where_a_shell_needs_it() -> None:
    assert typed("resume", Path("runs/a run")) == "worldloom resume 'runs/a run'"
    assert typed("check", "dmc:cartpole-balance") == "worldloom check dmc:cartpole-balance"
