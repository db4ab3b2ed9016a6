"""The page's server: who is let in, what a tab is told, and sentences for what cannot be served."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_session import RIGHT, slide

from worldloom_rl import cli
from worldloom_rl.play import Session, server
from worldloom_rl.play.server import Tab, about, answer, listen, make_app

RUN = Path(__file__).parents[1] / "saved_by_0_6"


@pytest.fixture
def played() -> Iterator[Session]:
    session = slide(memories=2)
    yield session
    session.close()


# ------------------------------------------------------------------ what a tab is told


def test_a_tab_is_told_of_moments_once_and_of_all_after_a_branch(played: Session) -> None:
    tab = Tab()
    first = answer(played, tab, {"do": "look"})
    assert (first["from"], len(first["moments"])) == (0, 1)
    for number in (1, 2, 3):
        told = answer(played, tab, {"do": "step", "action": RIGHT})
        assert (told["from"], len(told["moments"])) == (number, 1)
    branched = answer(played, tab, {"do": "dream", "at": 1})
    assert (branched["from"], len(branched["moments"]), branched["dreaming"]) == (0, 2, True)
    assert not answer(played, tab, {"do": "wake"})["dreaming"]
    json.dumps([first, branched, about(played, "a title")])


def test_another_tab_finds_all_that_was_done_and_sees_what_is_done(played: Session) -> None:
    one, other = Tab(), Tab()
    answer(played, one, {"do": "step", "action": RIGHT})
    assert len(answer(played, other, {"do": "look"})["moments"]) == 2
    answer(played, one, {"do": "step", "action": RIGHT})
    told = answer(played, other, {"do": "step", "action": RIGHT})
    assert (told["from"], len(told["moments"])) == (2, 2)


def test_a_past_moment_is_looked_at_with_its_pictures(played: Session) -> None:
    tab = Tab()
    begun = answer(played, tab, {"do": "look"})
    moved = answer(played, tab, {"do": "step", "action": RIGHT})
    assert moved["world"] != begun["world"]
    looked = answer(played, tab, {"do": "look", "at": 0})
    assert (looked["look"], looked["world"], looked["moments"]) == (0, begun["world"], [])
    assert answer(played, tab, {"do": "look"})["world"] == moved["world"]


@pytest.mark.parametrize(
    "asked",
    [
        None, [], "step", {}, {"do": "leap"}, {"do": "step", "action": [1]}, {"do": "step", "action": "left"},
        {"do": "step", "action": {"a": 1}}, {"do": "step", "action": [None, 0]}, {"do": "dream", "at": 99},
        {"do": "dream", "at": "now"}, {"do": "rate"}, {"do": "rate", "value": "fast"}, {"do": "rate", "value": None},
        {"do": "look", "at": -7}, {"do": "look", "at": [0]}, {"do": ["step"]}, {"do": "rate", "value": 1e999},
        {"do": "dream", "at": 1e999},
    ],
)  # fmt: skip
def test_what_no_page_asks_for_is_answered_with_a_problem_and_changes_nothing(played: Session, asked: object) -> None:
    told = answer(played, Tab(), asked)
    if asked == {"do": "rate", "value": 1e999}:
        assert played.rate == 60.0
    else:
        assert told["problem"]
        assert played.rate == 10.0
    assert (len(played.moments), played.dreaming) == (1, False)


# ------------------------------------------------------------------ who is let in

TOKEN = "Zm9vYmFy"


@pytest.fixture
def client(played: Session):  # type: ignore[no-untyped-def]
    pytest.importorskip("starlette", reason="the extra play")
    testclient = pytest.importorskip("starlette.testclient", reason="starlette's test client needs httpx")
    return testclient.TestClient(make_app(played, "a title", TOKEN), base_url="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/session", "/Zm9vYmFz/", "/Zm9vYmF/", "/Zm9vYmFz/page.js", "/Zm9vYmFz/play.gif", "/é/",
             "/Zm9vYmFy/../server.py", "/Zm9vYmFy/server.py", "/Zm9vYmFy/%2e%2e%2fserver.py", "/Zm9vYmFy/page/page.js"],
)  # fmt: skip
def test_without_the_token_and_beside_the_page_everything_is_refused(client, path: str) -> None:
    refused = client.get(path)
    assert refused.status_code == 403
    assert "open the whole address" in refused.text
    assert TOKEN not in refused.text


@pytest.mark.parametrize("name", ["", "page.css", "page.js", "play.gif"])
def test_with_the_token_the_page_comes_with_a_strict_policy(client, name: str) -> None:
    given = client.get(f"/{TOKEN}/{name}")
    assert given.status_code == 200
    policy = given.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:")
    assert "unsafe" not in policy
    assert given.headers["referrer-policy"] == "no-referrer"
    assert given.headers["cache-control"] == "no-store"


def test_the_page_loads_nothing_from_elsewhere_and_holds_no_script_of_its_own() -> None:
    page = Path(server.__file__).parent / "page"
    for file in page.iterdir():
        assert not re.search(r"https?://|//[a-z]", file.read_text().replace("// ", "")), file.name
    assert not re.search(r"<script(?![^>]*src=)| on\w+=|style=", (page / "index.html").read_text())


@pytest.mark.parametrize(
    ("token", "origin", "let_in"),
    [
        (TOKEN, "http://127.0.0.1:8000", True),
        (TOKEN, "http://example.org", False),
        (TOKEN, "http://127.0.0.1:8001", False),
        (TOKEN, None, False),
        (TOKEN, "null", False),
        ("x", "http://127.0.0.1:8000", False),
    ],
)
def test_a_socket_is_opened_to_the_own_page_alone(client, token: str, origin: str | None, let_in: bool) -> None:
    from starlette.testclient import WebSocketDenialResponse
    from starlette.websockets import WebSocketDisconnect

    headers = {"origin": origin, "host": "127.0.0.1:8000"} if origin else {"host": "127.0.0.1:8000"}
    if not let_in:
        with (
            pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
            client.websocket_connect(f"/{token}/session", headers=headers),
        ):
            pass
        return
    with client.websocket_connect(f"/{token}/session", headers=headers) as tab:
        assert tab.receive_json()["title"] == "a title"
        tab.send_json({"do": "step", "action": RIGHT})
        assert len(tab.receive_json()["moments"]) == 1


def test_a_closed_tab_ends_nothing_and_the_next_one_finds_everything(client, played: Session) -> None:
    headers = {"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"}
    with client.websocket_connect(f"/{TOKEN}/session", headers=headers) as tab:
        tab.receive_json()
        tab.send_json({"do": "step", "action": RIGHT})
        tab.receive_json()
        tab.send_text("no JSON")
    with client.websocket_connect(f"/{TOKEN}/session", headers=headers) as tab:
        assert len(tab.receive_json()["moments"]) == len(played.moments) == 2


# ------------------------------------------------------------------ the command


def test_a_port_in_use_is_named_with_the_option() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match=r"another program uses that port: choose another \(--port\)"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(OSError, match=r"choose another address \(--host\)"):
        listen("192.0.2.1", 0)


def test_the_command_serves_a_run_at_this_machine_alone_under_a_token_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("worldloom_rl.commands.play.require_installed", lambda *given, **named: None)
    served: list[tuple[str, str, str, int]] = []

    def serve(session: Session, title: str, listening: socket.socket, token: str) -> None:
        served.append((title, listening.getsockname()[0], token, len(session.memories)))

    monkeypatch.setattr(server, "serve", serve)
    for _ in range(2):
        cli.main(["play", str(RUN / "run-tdmpc2"), "--memories", "3", "--trust"])
    (title, host, token, memories), (_, _, other, _) = served
    assert title.startswith("TD-MPC2 tiny on ")
    assert (host, memories) == ("127.0.0.1", 4)
    assert len(token) >= 20
    assert token != other
    assert f"/{token}/ in a browser" in capsys.readouterr().out


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("worldloom_rl.extras.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["play", str(RUN / "run-tdmpc2")])
    assert stopped.value.code == 2
    assert "pip install 'worldloom-rl[play]'" in capsys.readouterr().err
