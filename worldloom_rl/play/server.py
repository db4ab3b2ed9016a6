"""A session for a browser: one static page and a WebSocket, both behind a random token in the address."""

from __future__ import annotations

import base64
import errno
import hmac
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from worldloom_rl.config import Json
from worldloom_rl.data.memories import LABEL
from worldloom_rl.extras import require
from worldloom_rl.play.session import FASTEST, SLOWEST, Moment, Session, Side

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

_PAGE = Path(__file__).parent / "page"
_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_REFUSED = "This page belongs to whoever started worldloom play: open the whole address that the command wrote.\n"


@dataclass
class Tab:
    """What a browser's tab knows of the session: how many of which path's moments, and the one it looks at."""

    path: int = -1
    known: int = 0
    look: int | None = None


def listen(host: str, port: int) -> socket.socket:
    """A socket that a page is served at. Raises OSError, saying what to do, if there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        remedy = "choose another address (--host): 127.0.0.1 is this machine alone."
        if error.errno == errno.EADDRINUSE:
            remedy = "another program uses that port: choose another (--port), or leave it out to take any free one."
        elif error.errno == errno.EACCES:
            remedy = "that port is the system's: choose one above 1023 (--port)."
        raise OSError(f"{host} port {port} cannot be listened at ({error.strerror}): {remedy}") from error


def address(listening: socket.socket, token: str) -> str:
    """What a person opens."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{token}/"


def serve(session: Session, title: str, listening: socket.socket, token: str) -> None:
    """Serves the page until the process is asked to stop."""
    uvicorn = require("uvicorn", extra="play", why="Playing in a browser needs uvicorn")
    options = {"log_level": "warning", "access_log": False, "ws": "websockets-sansio", "timeout_graceful_shutdown": 1}
    uvicorn.Server(uvicorn.Config(make_app(session, title, token), **options)).run(sockets=[listening])


def make_app(session: Session, title: str, token: str) -> Starlette:
    """The page, its GIF and its WebSocket under /<token>/; everything else is refused."""
    require("starlette", extra="play", why="Playing in a browser needs starlette")
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocketDisconnect

    def allowed(connection: HTTPConnection) -> bool:
        given = str(connection.path_params.get("token", ""))
        return hmac.compare_digest(given.encode(), token.encode())

    async def refuse(request: Request) -> Response:
        return Response(_REFUSED, 403, _HEADERS, "text/plain")

    async def page(request: Request) -> Response:
        name = request.path_params.get("name") or "index.html"
        if not allowed(request) or name not in _TYPES:
            return await refuse(request)
        return Response((_PAGE / name).read_bytes(), 200, _HEADERS, _TYPES[name])

    async def film(request: Request) -> Response:
        if not allowed(request):
            return await refuse(request)
        attached = {"Content-Disposition": 'attachment; filename="play.gif"'}
        return Response(session.gif(), 200, {**_HEADERS, **attached}, "image/gif")

    async def drive(socket: WebSocket) -> None:
        origin = urlsplit(socket.headers.get("origin", "")).netloc
        if not allowed(socket) or origin != socket.headers.get("host"):
            await socket.close()  # before it is accepted: 403
            return
        await socket.accept()
        tab = Tab()
        try:
            await socket.send_json({**about(session, title), **answer(session, tab, {"do": "look"})})
            while True:
                await socket.send_json(answer(session, tab, await socket.receive_json()))
        except (WebSocketDisconnect, ValueError, KeyError):  # a closed tab, or what no page of ours sends
            return None

    route: Callable[[str, Callable[[Request], Awaitable[Response]]], Route] = Route
    return Starlette(
        routes=[
            WebSocketRoute("/{token}/session", drive),
            route("/{token}/play.gif", film),
            route("/{token}/", page),
            route("/{token}/{name}", page),
            route("/{rest:path}", refuse),
        ]
    )


def about(session: Session, title: str) -> dict[str, Json]:
    """What a page is told once."""
    return {
        "title": title,
        "controls": [control._asdict() for control in session.controls],
        "withoutAgent": session.without_agent,
        "label": "" if session.image is not None else LABEL,
        "rates": [SLOWEST, FASTEST],
    }


def answer(session: Session, tab: Tab, asked: Json) -> dict[str, Json]:
    """What a tab is told after it asked for something: the moments that are new to it, and pictures of one.

    Args:
        asked: {"do": what, …}: "step" with "action", numbers or null for the agent's; "dream" with "at"; "wake";
            "restart"; "rate" with "value"; "look" with "at", null for the newest.
    """
    problem = ""
    try:
        _do(session, tab, asked if isinstance(asked, dict) else {})
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        problem = str(error) or type(error).__name__
    moments = session.moments
    if tab.path != session.path:
        tab.path, tab.known = session.path, 0
    known, tab.known = tab.known, len(moments)
    if tab.look is not None and tab.look >= len(moments):
        tab.look = None
    shown = moments[-1 if tab.look is None else tab.look]
    return {
        "problem": problem,
        "from": known,
        "moments": [_told(moment) for moment in moments[known:]],
        "look": tab.look,
        "world": _data(shown.world.picture) if shown.world else None,
        "dream": _data(shown.dream.picture),
        "dreaming": session.dreaming,
        "rate": session.rate,
    }


def _do(session: Session, tab: Tab, asked: dict[str, Json]) -> None:
    what, at = asked.get("do"), asked.get("at")
    tab.look = None
    if what == "step":
        session.step(asked.get("action"))
    elif what == "dream":
        session.dream_from(-1 if at is None else int(at))
    elif what == "wake":
        session.wake()
    elif what == "restart":
        session.restart()
    elif what == "rate":
        session.rate = min(max(float(asked["value"]), SLOWEST), FASTEST)
    elif what == "look":
        tab.look = None if at is None else range(len(session.moments))[int(at)]
    else:
        raise ValueError(f"A page asks for step, dream, wake, restart, rate or look, got {what!r:.100}.")


def _told(moment: Moment) -> dict[str, Json]:
    sides = {"world": moment.world, "dream": moment.dream}
    return {
        **{name: side and _numbers(side) for name, side in sides.items()},
        "error": moment.error,
        "moved": moment.moved,
        "memory": moment.memory,
        "dreaming": moment.dreaming,
        "begins": moment.begins,
        "ended": moment.ended,
    }


def _numbers(side: Side) -> dict[str, Json]:
    return {"reward": side.reward, "continuation": side.continuation, "value": side.value}


def _data(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"
