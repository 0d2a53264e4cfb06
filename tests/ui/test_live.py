"""The live view: what runs and what waits, told by the server without being asked again."""

from __future__ import annotations

import signal

import httpx
from playwright.sync_api import expect

from tests.support.service import Service
from tests.ui.conftest import OpenPage, rows, submit


def test_it_shows_the_models_the_workers_and_what_questions_took(open_page: OpenPage, api: httpx.Client) -> None:
    for _ in range(3):
        assert api.post("/v1/embeddings", json={"model": "quick", "input": "a question"}).status_code == 200

    page = open_page("live")

    models, workers = page.get_by_role("region", name="Models").first, page.get_by_role("region", name="Workers").first
    expect(models.get_by_role("row", name="quick")).to_contain_text("ready")
    expect(models.get_by_role("row", name="quick")).to_contain_text("float32")
    expect(workers.get_by_role("row").nth(1)).to_contain_text("cpu")
    lane = page.get_by_role("region", name="Questions (interactive lane)").first.get_by_role("row", name="quick")
    expect(lane).to_contain_text("ms")  # the quantiles of what was asked just now


def test_a_job_shows_up_with_its_progress_and_what_the_worker_runs_and_goes_when_it_is_done(
    open_page: OpenPage, api: httpx.Client
) -> None:
    page = open_page("live")
    expect(page.get_by_text("No job runs or waits.").get_by_role("link", name="Submit a corpus")).to_be_visible()

    job = submit(api, rows(3000), model="slow", priority="high")

    row = page.get_by_role("region", name="Unfinished jobs").first.get_by_role("row", name=job[:14])
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("high")
    expect(row.get_by_role("progressbar")).to_be_attached()
    expect(page.get_by_role("region", name="Workers").first.get_by_role("listitem").first).to_contain_text(job[:14])
    api.post(f"/v1/embeddings/jobs/{job}/cancel")
    expect(page.get_by_text("No job runs or waits.")).to_be_visible()


def test_a_lost_connection_is_told_and_mends_itself_when_the_server_is_back(
    open_page: OpenPage, installation: Service, api: httpx.Client
) -> None:
    page, other = open_page("live"), open_page("jobs")
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    expect(other.get_by_role("heading", name="Jobs")).to_be_visible()
    assert installation.web is not None

    installation.web.send_signal(signal.SIGTERM)
    installation.web.wait(20)
    expect(page.get_by_text("Connection lost: the server does not answer.")).to_be_visible()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()  # what was seen stays
    other.get_by_role("link", name="Submit", exact=True).click()
    expect(other.get_by_label("Model")).to_have_accessible_description("the server does not answer")

    installation.start_web()
    expect(page.get_by_text("Connection lost")).to_be_hidden()
    expect(other.get_by_label("Model").locator("option")).not_to_have_count(0)
    expect(other.get_by_label("Model")).to_have_accessible_description("")
    job = submit(api, rows(3000), model="slow")
    expect(page.get_by_role("link", name=job[:14]).first).to_be_visible()
    api.delete(f"/v1/embeddings/jobs/{job}")
