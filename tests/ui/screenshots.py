"""The pictures of docs/images: `python -m tests.ui.screenshots` starts an installation, fills it, and takes them."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright

from tests.support.service import Service, running_service
from tests.ui.conftest import ARGUMENTS, CHROMIUM

IMAGES = Path(__file__).parents[2] / "docs" / "images"
# Names that people know, and a backend that needs neither their files nor a GPU.
MODELS = """
- name: multilingual-e5-small
  backend: fake
  embeddings: true
  default: true
  parameters:
    model: fake?dimensions=384&seconds_per_token=0.0002
- name: all-MiniLM-L6-v2
  backend: fake
  embeddings: true
  parameters:
    model: fake?dimensions=384
"""
VIEWPORT = {"width": 1120, "height": 760}


def corpus(texts: int, bad_every: int) -> bytes:
    """NDJSON; some lines are no JSON."""
    lines = (
        "{cut off"
        if number % bad_every == bad_every - 1
        else json.dumps({"id": f"doc-{number}", "text": "word " * random.randint(5, 60)})
        for number in range(texts)
    )
    return "\n".join(lines).encode()


def submit(api: httpx.Client, content: bytes, **parameters: str) -> str:
    """A job's id."""
    headers = {"Content-Type": "application/x-ndjson"}
    return str(api.post("/v1/embeddings/jobs", params=parameters, content=content, headers=headers).json()["id"])


def take(browser: Browser, service: Service) -> None:
    """All pictures, a minute after things began to move."""
    with service.client() as api:
        large = submit(api, corpus(24_000, 4001), priority="high")
        submit(api, corpus(6000, 701))
        submit(api, corpus(400, 399), model="all-MiniLM-L6-v2")
        until = time.monotonic() + 40
        while time.monotonic() < until:
            questions = ["how far is the sea"] * random.randint(1, 20)
            api.post("/v1/embeddings", json={"model": "multilingual-e5-small", "input": questions})
            time.sleep(random.uniform(0.05, 0.3))
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport=VIEWPORT, color_scheme=scheme, locale="en-GB")
        page = context.new_page()
        page.goto(service.url)
        page.get_by_role("heading", name="Models").wait_for()
        page.screenshot(path=IMAGES / f"live-{scheme}.png")
        page.goto(f"{service.url}/#/job/{large}")
        page.locator("canvas").wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=IMAGES / f"job-{scheme}.png")
        context.close()


def main() -> None:
    """Take them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        running_service(Path(directory), workers=2, models=MODELS, shard_seconds=0.4) as service,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        take(browser, service)
        browser.close()


if __name__ == "__main__":
    main()
