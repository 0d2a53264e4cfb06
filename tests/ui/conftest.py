"""A real Chromium and one running installation with the fake backend, for all tests of the dashboard."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.service import Service, running_service
from tests.support.valkey import free_port

MODELS = """
- name: quick
  backend: fake
  embeddings: true
  default: true
  parameters:
    model: fake?dimensions=8&poison=raise:poison
- name: slow
  backend: fake
  embeddings: true
  parameters:
    model: fake?dimensions=8&seconds_per_token=0.002
- name: "<img src=x onerror=window.pwned=1>"
  backend: fake
  embeddings: true
  parameters:
    model: fake?dimensions=8
"""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Nothing of a browser that talks to anybody but us, nor needs a screen.
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage"
).split()
KEY = "sesame-for-the-page"

OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One for all; each page has a context, and so a storage, of its own."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Valkey, one worker with the fake backend, gunicorn; nobody needs a key."""
    options: dict[str, Any] = {"shard_seconds": 0.2, "reconcile_interval_s": 1, "streams": 2}
    with running_service(tmp_path_factory.mktemp("dashboard"), models=MODELS, **options) as service:
        yield service


@contextmanager
def second_web(service: Service, **settings: str) -> Iterator[str]:
    """Another web process on the same data, with other settings; its address."""
    url = f"127.0.0.1:{free_port()}"
    environment = service.environment | {"UMEKOMI_ADDRESS": url} | settings
    with (service.directory / "logs" / "second-web.log").open("wb") as log:
        web = subprocess.Popen([sys.executable, "-m", "cli.main", "web"], env=environment, stdout=log, stderr=log)
    try:
        service.wait_for(lambda: httpx.get(f"http://{url}/healthz").status_code == 200, "a second web process", 30)
        yield f"http://{url}"
    finally:
        web.terminate()
        web.wait(20)


@pytest.fixture(scope="session")
def keyed_url(installation: Service) -> Iterator[str]:
    """The same installation where a key is needed: KEY."""
    with second_web(installation, UMEKOMI_API_KEYS=KEY) as url:
        yield url


@pytest.fixture(scope="session")
def api(installation: Service) -> Iterator[httpx.Client]:
    """The API, to bring about what a page is to show."""
    with installation.client() as client:
        yield client


@pytest.fixture
def open_page(browser: Browser, installation: Service) -> Iterator[OpenPage]:
    """A page of the dashboard in a context of its own: open_page("jobs"). What goes wrong in its scripts fails the test."""
    contexts = []
    wrong: list[str] = []

    def open_(path: str = "live", *, url: str | None = None, **context: Any) -> Page:
        made = browser.new_context(**({"locale": "en-GB", "viewport": {"width": 1280, "height": 900}} | context))
        made.set_default_timeout(15_000)
        contexts.append(made)
        page = made.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        # A policy that was broken is told here and nowhere else.
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(f"{url or installation.url}/#/{path}")
        return page

    yield open_
    for made in contexts:
        made.close()
    assert not wrong


expect.set_options(timeout=15_000)


def submit(api: httpx.Client, lines: str, **parameters: str) -> str:
    """A job of NDJSON lines; its id."""
    response = api.post(
        "/v1/embeddings/jobs", params=parameters, content=lines.encode(), headers={"Content-Type": "application/x-ndjson"}
    )
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def rows(count: int, words: int = 8) -> str:
    """NDJSON of so many texts."""
    return "".join(f'{{"id": "r{number}", "text": "{"word " * words}{number}"}}\n' for number in range(count))
