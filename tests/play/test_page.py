"""The page in a real browser: chromium of the system, driven by playwright."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from slide import Knowing
from test_session import slide, untrained

from worldloom_rl.play import Session
from worldloom_rl.play.server import address, listen, make_app

TOKEN = "a-token-of-the-test"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning"
    ),  # of uvicorn about websockets and of those about themselves
]


class Page:
    """A session's page in a browser of 900 pixels' width."""

    def __init__(self, page, session: Session, url: str) -> None:  # type: ignore[no-untyped-def]
        self.page, self.session, self.url = page, session, url
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.goto(url)
        self.waits_for("document.querySelectorAll('.strip').length == 4")

    def waits_for(self, condition: str) -> None:
        """Asked from here, as the page's policy forbids a browser to evaluate what it is told to wait for."""
        until = time.monotonic() + 20
        while not self.page.evaluate(condition):
            assert time.monotonic() < until, f"{condition}; the page says {self.text('status')!r}, {self.errors}"
            self.page.wait_for_timeout(20)

    def press(self, key: str, steps: int | None = None) -> None:
        """A key, and until there are so many moments after the first."""
        self.page.keyboard.press(key)
        if steps is not None:
            self.waits_for(f"document.getElementById('moment-number').textContent.endsWith('/ {steps}')")

    def text(self, name: str) -> str:
        return str(self.page.text_content(f"#{name}"))

    def pictures(self) -> tuple[str, str]:
        return tuple(self.page.get_attribute(f"#{side}-picture", "src") for side in ("world", "dream"))  # type: ignore[return-value]

    def strips(self) -> list[str]:
        script = "[...document.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL())"
        return list(self.page.evaluate(script))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"), executable_path=CHROMIUM, headless=True, args=QUIET,
            viewport={"width": 900, "height": 900}, accept_downloads=True,
        )  # fmt: skip
        yield context
        context.close()


@pytest.fixture
def opened(browser, request: pytest.FixtureRequest) -> Iterator[Page]:  # type: ignore[no-untyped-def]
    uvicorn = pytest.importorskip("uvicorn", reason="the extra play")
    session: Session = request.param()
    listening = listen("127.0.0.1", 0)
    options = {"log_level": "warning", "ws": "websockets-sansio", "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(make_app(session, "a title", TOKEN), **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    page = browser.new_page()
    try:
        yield Page(page, session, address(listening, TOKEN))
    finally:
        page.close()
        server.should_exit = True
        thread.join(20)
        session.close()


def catch() -> Session:
    return untrained("dreamerv3")


def wrong_slide() -> Session:
    return slide(Knowing(way=-1.0))


@pytest.mark.parametrize("opened", [catch, wrong_slide], indirect=True, ids=["choices", "sliders"])
def test_both_pictures_and_the_strips_move_under_key_presses_alone(opened: Page) -> None:
    before, strips = opened.pictures(), opened.strips()
    for number, key in enumerate(("5", "5", "5") if opened.session.image else ("ArrowRight", "ArrowUp", "ArrowRight")):
        opened.press(key, steps=number + 1)
    assert all(now != then for now, then in zip(opened.pictures(), before, strict=True))
    assert all(now != then for now, then in zip(opened.strips(), strips, strict=True))
    moved = opened.session.moments[-1].action
    assert moved is not None
    assert moved.tolist() == ([0, 0, 0, 0, 1] if opened.session.image else [1.0, 0.0])
    assert opened.errors == []


@pytest.mark.parametrize("opened", [wrong_slide], indirect=True)
def test_the_branch_begins_the_dream_at_the_moment_that_is_looked_at(opened: Page) -> None:
    for number in range(4):
        opened.press("ArrowRight", steps=number + 1)
    there = opened.session.moments[2].observed["position"]
    opened.press(",")
    opened.waits_for("document.getElementById('moment-number').textContent == '3 / 4'")
    opened.press(",")
    opened.waits_for("document.getElementById('moment-number').textContent == '2 / 4'")
    opened.press("b", steps=2)
    assert opened.session.dreaming
    assert opened.session.moments[-1].dreamt["position"].tolist() == there.tolist()
    opened.press("ArrowRight", steps=3)
    assert opened.text("dream-says") == "dreams on since moment 2"
    assert opened.session.moments[-1].error == pytest.approx(0.5)
    assert "not a prediction" in opened.text("memory-label")
    opened.press("Escape")
    opened.waits_for("document.getElementById('wake').disabled")
    assert not opened.session.dreaming


@pytest.mark.parametrize("opened", [wrong_slide], indirect=True)
def test_a_tab_without_the_token_is_refused_and_a_closed_one_ends_and_loses_nothing(opened: Page) -> None:
    opened.press("ArrowRight", steps=1)
    parts = urlsplit(opened.url)
    other = opened.page.context.new_page()
    for path in ("/", f"/{TOKEN[:-1]}/", "/other/page.js"):
        assert other.goto(f"{parts.scheme}://{parts.netloc}{path}").status == 403
    script = f"new Promise((tell) => {{ const s = new WebSocket('ws://{parts.netloc}/{TOKEN}/session'); " \
             "s.onopen = () => tell('open'); s.onerror = () => tell('refused'); })"  # fmt: skip
    assert other.goto("data:text/html,elsewhere") is None
    assert other.evaluate(script) == "refused"  # with the token even, but from another page
    other.close()
    opened.page.close()
    assert len(opened.session.moments) == 2
    again = opened.page = opened.page.context.new_page()
    again.goto(opened.url)
    opened.waits_for("document.getElementById('moment-number').textContent == '1 / 1'")
    opened.press("ArrowRight", steps=2)


@pytest.mark.parametrize("opened", [catch], indirect=True)
def test_the_agent_plays_slower_and_faster_and_the_page_fits_900_pixels(opened: Page) -> None:
    opened.press("+")
    opened.waits_for("document.getElementById('rate').textContent == '15 steps/s'")
    opened.press("p")
    opened.waits_for("Number(document.getElementById('moment').max) >= 5")
    assert "the agent plays" in opened.text("status")
    opened.press("p")
    opened.press("-")
    opened.waits_for("document.getElementById('rate').textContent == '10 steps/s'")
    opened.press("b")
    opened.waits_for("!document.getElementById('wake').disabled")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 900
    with opened.page.expect_download() as film:
        opened.press("v")
    assert Path(film.value.path()).read_bytes().startswith(b"GIF")
    assert opened.errors == []


@pytest.mark.parametrize("opened", [catch], indirect=True)
def test_every_button_is_reached_by_the_keyboard(opened: Page) -> None:
    wanted = {"run", "agent", "branch", "restart", "slower", "faster", "film", "moment", "choice-0", "choice-4"}
    reached = set()
    for _ in range(30):
        opened.page.keyboard.press("Tab")
        reached.add(opened.page.evaluate("document.activeElement.id"))
    assert wanted <= reached
