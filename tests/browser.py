"""A headless Chromium that can only reach this machine, and the servers whose pages it opens."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
HOST = "127.0.0.1"
START_SECONDS = 120
STOP_SECONDS = 30
PAGE_SECONDS = 180  # some steps stall for a minute on a busy machine


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Returns the system's Chromium or Chrome, or the one that CHROMIUM names; skips the test if there is none."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} on the path; Debian: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: it is in requirements-dev.txt")
    with api.sync_playwright() as playwright:
        # Other hosts cannot be resolved, whatever the page requests.
        only_here = f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}"
        browser = playwright.chromium.launch(executable_path=program, args=[only_here])
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser, width: int = 1400, height: int = 1000) -> tuple[Page, list[str]]:
    """Opens a new page; returns it with a list that collects its requests to other hosts, all of which fail."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(1000 * PAGE_SECONDS)
    others: list[str] = []

    def note(url: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname != HOST:
            others.append(url)

    page.on("request", lambda request: note(request.url))
    page.on("websocket", lambda websocket: note(websocket.url))
    return page, others


class Server(NamedTuple):
    """A program that serves pages, and the address that it has printed."""

    process: subprocess.Popen[str]
    address: str


@contextlib.contextmanager
def serving(command: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Runs a server, waits until it prints its address, and ends it with SIGTERM."""
    said: list[str] = []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process:
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                said.append(line)
                address = re.search(rf"http://{re.escape(HOST)}:\d+", line)
                if address:
                    break
            else:
                raise AssertionError(f"{' '.join(command)} gave no address:\n{''.join(said)}")
            timer.cancel()
            # The pipe must be read from now on, or the server would block when it is full.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield Server(process, address[0])
        finally:
            timer.cancel()
            process.terminate()
            process.wait(STOP_SECONDS)
