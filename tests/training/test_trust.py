"""A run of somebody else imports nothing until its user says so, and never from its own folder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from worldloom_rl.cli import main
from worldloom_rl.commands.trained import open_run
from worldloom_rl.training.run_directory import RunDirectory

RUNS = Path(__file__).parents[1] / "saved_by_0_6"
COMMANDS = ("eval", "imagine", "play", "report", "resume")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module that tells when it is imported, and no trust in anything."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("worldloom_rl.training.trust._in_this_process", set())
    monkeypatch.setattr("worldloom_rl.commands.play.require_installed", lambda *given, **named: None)  # its extra
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    module(tmp_path / "work" / "games.py")
    yield tmp_path / "work"
    for name in ("games", "package", "package.games", "runs", "runs.theirs", "runs.theirs.payload"):
        sys.modules.pop(name, None)


def module(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n")
    return file


def theirs(here: Path, **config: object) -> Path:
    """A finished run whose configuration says that, as if copied from another machine."""
    run = here / "runs" / "theirs"
    shutil.copytree(RUNS / "run-tdmpc2", run)
    content = json.loads((run / "config.json").read_text())
    content["config"] |= config
    (run / "config.json").write_text(json.dumps(content))
    return run


def asked(run: Path) -> str:
    with pytest.raises(ValueError, match=r"repeat the command with --trust|never imported") as refused:
        open_run(run)
    assert len(str(refused.value)) <= 400
    return str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        {"env": "games:Pendulum-v1"},
        {"env": "Pendulum-v1", "env_kwargs": ["base=games:Inner"]},
        {"env": "Pendulum-v1", "env_kwargs": {"base": {"id": "games:Inner"}}},
        {"env": "", "tasks": ["dmc:cup-catch", "games:Pendulum-v1"]},
        {"env": "Pendulum-v1", "eval_tasks": ["games:Pendulum-v1"]},
    ],
)
def test_a_module_that_a_run_names_is_asked_for(here: Path, config: dict[str, object]) -> None:
    assert "imports 'games'" in asked(theirs(here, **config))
    assert not (here / "games.ran").exists()


@pytest.mark.parametrize(
    "name", ["Pendulum-v1", "dmc:cartpole-balance", "ale:Pong", "crafter:reward", "worldloom/Catch-v0", "nowhere:X-v0"]
)
def test_names_that_import_nothing_need_no_trust(here: Path, name: str) -> None:
    assert RunDirectory(theirs(here, env=name)).read_config()[1]["env"] == name


def test_commands_ask_and_go_on_with_trust_which_is_remembered(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = theirs(here, env="games:Pendulum-v1")
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, str(run)])
        assert "--trust" in capsys.readouterr().err
        assert not (here / "games.ran").exists()
    main(["eval", str(run), "--episodes", "1", "--trust"])
    assert (here / "games.ran").exists()
    assert RunDirectory(run.rename(here / "moved")).read_config()[1]["env"] == "games:Pendulum-v1"


def test_what_was_trained_here_is_trusted_wherever_the_run_lies_but_not_another_module_of_that_name(here: Path) -> None:
    made = RunDirectory.create(here / "mine", "run", "tdmpc2", {"env": "games:Mine-v0"})
    assert made.read_config()[1]["env"] == "games:Mine-v0"
    shutil.move(here / "mine", here / "elsewhere")
    assert RunDirectory(here / "elsewhere").read_config()[1]["env"] == "games:Mine-v0"
    (here / "games.py").rename(here / "gone.py")
    module(here / "games" / "__init__.py")
    assert "imports 'games'" in asked(here / "elsewhere")


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_imported_from_the_run_itself_whoever_trusts_it(
    here: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = theirs(here, env="runs.theirs.payload:Pendulum-v1")
    module(run / "payload.py")
    for trust in ([], ["--trust"]):
        with pytest.raises(SystemExit):
            main([command, str(run), *trust])
        assert "never imported from there" in " ".join(capsys.readouterr().err.split())
    assert not (run / "payload.ran").exists()


def test_the_folder_of_a_run_is_no_place_to_import_from(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = theirs(here)
    monkeypatch.chdir(run / "checkpoints")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    main(["list"])
    assert "" not in sys.path


@pytest.mark.parametrize("link", ["README.md", "logs/csv", "curve.png", "checkpoints"])
def test_a_link_that_leads_out_of_a_run_is_asked_for(here: Path, link: str) -> None:
    run = theirs(here)
    (here / "thesis").mkdir()
    shutil.rmtree(run / link, ignore_errors=True)
    (run / link).unlink(missing_ok=True)
    (run / link).parent.mkdir(exist_ok=True)
    (run / link).symlink_to(here / "thesis")
    assert f"is a link to {str(here / 'thesis')[-80:]}" in asked(run)
    RunDirectory(run).trust()
    RunDirectory(run).read_config()


def test_a_module_is_found_as_python_finds_it(here: Path) -> None:
    from worldloom_rl.training.trust import _places

    inner = module(here / "package" / "games.py")
    assert _places("package.games") == [str(here / "package"), str(inner)]  # a namespace has no file of its own
    (here / "package" / "__init__.py").touch()
    assert _places("package.games") == [str(here / "package" / "__init__.py"), str(inner)]
    assert _places("package.nothing") == _places("package.games.deeper") == _places("") == _places("a\0b") == []
    assert not inner.with_suffix(".ran").exists()
