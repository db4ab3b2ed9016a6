"""The hub: an unmodified client in other processes, against a stand-in server on the loopback interface."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_server import TOKEN, HubServer
from huggingface_hub.errors import LocalEntryNotFoundError

from worldloom_rl import AutoWorldModel, WorldModel
from worldloom_rl.pretrained import hub
from worldloom_rl.pretrained.hub import is_hub_id
from worldloom_rl.pretrained.model_card import model_card

RESULT = {
    "recipe": "tdmpc2",
    "config": {"env": "Pendulum-v1", "preset": "tiny", "seed": 3, "run_directory": "/home/someone/run"},
    "agent_steps": 2500,
    "environment_steps": 5000,
    "final_returns": [-120.0, -240.0, -118.0, -2.0, -130.0],
}


def fresh(seed: int) -> WorldModel:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "is a preset"
        return AutoWorldModel.from_pretrained("tdmpc2:tiny")


def digest(model: WorldModel) -> str:
    content = b"".join(name.encode() + value.numpy().tobytes() for name, value in model.state_dict().items())
    return hashlib.sha256(content).hexdigest()


def load(name: str, **arguments: Any) -> str:
    """The digest of a model by name, or the exception's type and message."""
    return attempt(lambda: digest(AutoWorldModel.from_pretrained(name, **arguments)))


def attempt(call: Callable[[], str]) -> str:
    try:
        return call()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


# ---------------------------------------------------------------------- what the other processes do


def connected() -> dict[str, Any]:
    first, second = fresh(1), fresh(2)
    digests = {"first": digest(first), "second": digest(second)}
    commits = {
        "first": first.push_to_hub("loomers/pendulum", token=TOKEN),
        "second": second.push_to_hub("loomers/pendulum", token=TOKEN, commit_message="Better", result=RESULT),
        "branch": first.push_to_hub("loomers/pendulum", token=TOKEN, revision="trial"),
        "private": first.push_to_hub("loomers/secret", token=TOKEN, private=True),
    }
    loaded = {
        "main": load("loomers/pendulum"),
        "old": load("loomers/pendulum", revision=commits["first"]),
        "branch": load("loomers/pendulum", revision="trial"),
        "stuffed": load("loomers/stuffed"),
        "damaged": load("loomers/damaged"),
        "empty": load("loomers/empty"),
        "private, signed out": load("loomers/secret"),
        "missing, signed out": load("loomers/nothing"),
        "revision": load("loomers/pendulum", revision="v7"),
        "hash": load("loomers/pendulum", revision="0" * 40),
    }
    pushed = {
        "signed out": attempt(lambda: first.push_to_hub("loomers/pendulum")),
        "wrong token": attempt(lambda: first.push_to_hub("loomers/pendulum", token="hf_wrong")),
        "elsewhere": attempt(lambda: first.push_to_hub("strangers/pendulum", token=TOKEN)),
        "malformed": attempt(lambda: first.push_to_hub("loomers/pendu lum", token=TOKEN)),
        "bare": attempt(lambda: first.push_to_hub("pendulum", token=TOKEN)),
        "result": attempt(lambda: first.push_to_hub("loomers/pendulum", token=TOKEN, result={"recipe": "tdmpc2"})),
    }
    os.environ["HF_TOKEN"] = TOKEN
    loaded |= {"private, signed in": load("loomers/secret"), "missing, signed in": load("loomers/nothing")}
    return {"digests": digests, "commits": commits, "loaded": loaded, "pushed": pushed}


def disconnected(commit: str, empty: str) -> dict[str, Any]:
    loaded = {
        "local": load("loomers/pendulum", local_files_only=True),
        "local, old": load("loomers/pendulum", revision=commit, local_files_only=True),
        "cached": load("loomers/pendulum"),
        "never loaded": load("loomers/other"),
        "never loaded, local": load("loomers/other", local_files_only=True),
        "other cache": load("loomers/pendulum", local_files_only=True, cache_dir=empty),
    }
    return {"loaded": loaded, "pushed": attempt(lambda: fresh(1).push_to_hub("loomers/pendulum", token=TOKEN))}


def in_another_process(call: str, endpoint: str, home: Path) -> dict[str, Any]:
    """What a function of this module gives in a process whose client knows only the stand-in hub."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    program = f"import json, sys, test_hub; json.dump(test_hub.{call}, sys.stdout)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both processes reported, the server's state and requests after the first, and the cache's files."""
    home = tmp_path_factory.mktemp("home")
    model = home / "model"
    fresh(5).save_pretrained(model)
    files = {file.name: file.read_bytes() for file in model.iterdir()}
    with HubServer() as server:
        extra = {"modeling.py": b"raise SystemExit", "weights.pkl": b"\x80", "old/model.safetensors": b"old"}
        server.create("loomers/stuffed").commit("main", {**files, **extra}, "with code")
        damaged = {**files, "config.json": files["config.json"].replace(b'"latent_dim"', b'"laten_dim"')}
        server.create("loomers/damaged").commit("main", damaged, "damaged")
        server.create("loomers/empty")
        online = in_another_process("connected()", server.endpoint, home)
    cached = {path.name for path in home.rglob("snapshots/**/*") if path.is_file()}
    offline = in_another_process(
        f"disconnected({online['commits']['first']!r}, {str(home / 'empty')!r})", server.endpoint, home
    )
    return {"online": online, "offline": offline, "server": server, "cached": cached, "stuffed": digest(fresh(5))}


# ---------------------------------------------------------------------- round trip


def test_a_pushed_model_comes_back_bit_for_bit(story):
    assert story["online"]["loaded"]["main"] == story["online"]["digests"]["second"]


def test_an_older_commit_comes_back_by_its_hash(story):
    digests, commits = story["online"]["digests"], story["online"]["commits"]
    assert commits["first"] != commits["second"]
    assert digests["first"] != digests["second"]
    assert story["online"]["loaded"]["old"] == digests["first"]


def test_a_branch_is_made_pushed_to_and_loaded_from(story):
    assert story["online"]["loaded"]["branch"] == story["online"]["digests"]["first"]
    branches = story["server"].repositories["loomers/pendulum"].branches
    assert branches["main"] == story["online"]["commits"]["second"]
    assert branches["trial"] == story["online"]["commits"]["branch"]


def test_a_push_holds_the_two_files_and_the_card(story):
    repository = story["server"].repositories["loomers/pendulum"]
    files = repository.commits[story["online"]["commits"]["first"]]
    assert sorted(files) == [".gitattributes", "README.md", "config.json", "model.safetensors"]


def test_a_private_repository_is_made_private_and_opens_to_a_token_alone(story):
    assert story["server"].repositories["loomers/secret"].private
    assert not story["server"].repositories["loomers/pendulum"].private
    assert story["online"]["loaded"]["private, signed in"] == story["online"]["digests"]["first"]
    assert story["online"]["loaded"]["private, signed out"].startswith("PermissionError: The hub answered 401")


# ---------------------------------------------------------------------- nothing but data


def test_only_the_two_files_are_downloaded(story):
    assert story["online"]["loaded"]["stuffed"] == story["stuffed"]
    asked = {
        request.split("/resolve/")[1].split("/", 1)[1] for request in story["server"].requests if "/resolve/" in request
    }
    assert asked == {"config.json", "model.safetensors"}
    assert story["cached"] == {"config.json", "model.safetensors"}


def test_a_damaged_download_is_refused_by_name(story):
    refused = story["online"]["loaded"]["damaged"]
    assert re.match(r"ValueError: \S+/config\.json describes no model: TDMPC2Config has no field 'laten_dim'", refused)


def test_a_repository_without_a_model_is_told(story):
    message = story["online"]["loaded"]["empty"]
    assert message.startswith("FileNotFoundError")
    assert "loomers--empty" in message
    assert "holds no config.json" in message


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing, signed out", "PermissionError: The hub answered 401 for 'loomers/nothing'"),
        ("missing, signed in", "FileNotFoundError: There is no directory 'loomers/nothing' and the hub has no such"),
        ("revision", "FileNotFoundError: 'loomers/pendulum' on the hub has no revision 'v7'; give a branch"),
        ("hash", "FileNotFoundError: 'loomers/pendulum' on the hub has no revision '0000000000"),
    ],
)
def test_a_load_that_fails_says_why(story, what, message):
    assert story["online"]["loaded"][what].startswith(message)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("signed out", "PermissionError: The hub answered 401 for 'loomers/pendulum': the token is missing"),
        ("wrong token", "PermissionError: The hub answered 401 for 'loomers/pendulum'"),
        ("elsewhere", "PermissionError: The hub answered 403 for 'strangers/pendulum'"),
        ("malformed", "ValueError: A model on the hub is named 'organization/name'"),
        ("bare", "ValueError: A model on the hub is named 'organization/name'"),
        ("result", "ValueError: The result lacks 'config'; give the contents of a run's result.json"),
    ],
)
def test_a_push_that_fails_says_why(story, what, message):
    assert story["online"]["pushed"][what].startswith(message)


@pytest.mark.parametrize(
    "name", ["a/b/c", "loomers/pendu lum", "../model", "./model", "/model", "org/", "org/a--b", ""]
)
def test_malformed_names_are_no_hub_ids(name):
    assert not is_hub_id(name)


# ---------------------------------------------------------------------- without a connection


@pytest.mark.parametrize(("what", "which"), [("local", "second"), ("local, old", "first"), ("cached", "second")])
def test_a_model_that_was_loaded_once_loads_without_a_connection(story, what, which):
    assert story["offline"]["loaded"][what] == story["online"]["digests"][which]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("never loaded", "'loomers/other' at revision 'main' is not in the cache, and the hub gave no usable answer"),
        ("never loaded, local", "'loomers/other' at revision 'main' is not in the cache, and local_files_only=True"),
        ("other cache", "'loomers/pendulum' at revision 'main' is not in the cache, and local_files_only=True"),
    ],
)
def test_a_model_that_is_not_in_the_cache_needs_a_connection(story, what, message):
    assert story["offline"]["loaded"][what].startswith(f"FileNotFoundError: {message}")


def test_a_push_without_a_connection_says_so(story):
    message = story["offline"]["pushed"]
    assert message.startswith("ConnectionError: The hub gave no answer while 'loomers/pendulum' was pushed")


def test_a_hub_that_never_answers_ends_with_a_sentence(monkeypatch):
    asked = []

    def silent(repo_id, *, local_files_only=False, **arguments):
        asked.append(local_files_only)
        if local_files_only:
            raise LocalEntryNotFoundError("nothing is there")
        threading.Event().wait()

    monkeypatch.setattr(hub, "snapshot_download", silent)
    monkeypatch.setattr(hub, "_PATIENCE", 0.05)
    with pytest.raises(FileNotFoundError, match="not in the cache, and the hub gave no usable answer"):
        AutoWorldModel.from_pretrained("org/name")
    assert asked == [False, True]


def test_a_slow_download_is_waited_for_and_its_errors_arrive(monkeypatch):
    monkeypatch.setattr(hub, "_PATIENCE", 0.05)
    bytes_so_far = itertools.count()
    assert hub._answer_of(lambda: threading.Event().wait(0.3) or "done", lambda: next(bytes_so_far)) == "done"
    with pytest.raises(ZeroDivisionError):
        hub._answer_of(lambda: 1 // 0)


# ---------------------------------------------------------------------- the model card


def front_matter(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_the_card_on_the_hub_tells_the_evaluation(story):
    repository = story["server"].repositories["loomers/pendulum"]
    card = repository.commits[story["online"]["commits"]["second"]]["README.md"].decode()
    data = front_matter(card)
    assert data["library_name"] == "worldloom-rl"
    assert data["pipeline_tag"] == "reinforcement-learning"
    assert {"world-model", "tdmpc2", "Pendulum-v1"} <= set(data["tags"])
    (model,) = data["model-index"]
    (evaluation,) = model["results"]
    (metric,) = evaluation["metrics"]
    assert model["name"] == "pendulum"
    assert evaluation["dataset"]["name"] == "Pendulum-v1"
    assert (metric["name"], metric["value"]) == ("Mean return", -122.0)  # by hand: -610 / 5
    assert (metric["args"]["seeds"], metric["args"]["episodes"]) == ([3], 5)
    low, high = metric["args"]["bootstrap_interval_95"]
    assert -240 < low < -122 < high < -2
    assert 'AutoWorldModel.from_pretrained("loomers/pendulum")' in card
    assert "/home/someone" not in card


def test_a_card_without_a_result_claims_no_return(story):
    repository = story["server"].repositories["loomers/pendulum"]
    card = repository.commits[story["online"]["commits"]["first"]]["README.md"].decode()
    assert "model-index" not in front_matter(card)
    assert "No evaluation was given" in card


@pytest.mark.parametrize("name", ["recipe", "config", "agent_steps", "environment_steps", "final_returns"])
def test_a_result_that_lacks_a_field_is_refused_by_name(name):
    result = {key: value for key, value in RESULT.items() if key != name}
    with pytest.raises(ValueError, match=f"lacks '{name}'"):
        model_card("loomers/pendulum", {"model_type": "tdmpc2"}, 1, result)


def test_a_result_without_episodes_is_refused():
    with pytest.raises(ValueError, match="'final_returns' are empty"):
        model_card("loomers/pendulum", {"model_type": "tdmpc2"}, 1, {**RESULT, "final_returns": []})
