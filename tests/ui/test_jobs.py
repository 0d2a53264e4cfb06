"""The list of jobs and one job's page: progress, errors, the shard map, and everything that can be done with a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, expect

from tests.support.service import Service
from tests.support.waiting import wait_until
from tests.ui.conftest import KEY, OpenPage, rows, submit

BAD = "{no json\n"


@pytest.fixture
def nothing_left(api: httpx.Client) -> Iterator[None]:
    """No job before and after."""

    def delete_all() -> None:
        for job in api.get("/v1/embeddings/jobs", params={"limit": 100}).json()["data"]:
            api.delete(f"/v1/embeddings/jobs/{job['id']}")

    delete_all()
    yield
    delete_all()


def status(page: Page):  # type: ignore[no-untyped-def]
    """What the head of a job's page says."""
    return page.locator(".head .tag")


def test_a_job_runs_to_its_end_on_the_page_and_its_shards_turn_green(
    open_page: OpenPage, api: httpx.Client, nothing_left: None
) -> None:
    job = submit(api, rows(120), model="slow")
    assert api.post(f"/v1/embeddings/jobs/{job}/pause").status_code == 200
    page = open_page(f"job/{job}")
    page.get_by_role("button", name="Resume").click()
    expect(status(page)).to_have_text("completed")

    expect(page.get_by_role("progressbar", name="Progress of the job")).to_have_attribute("aria-valuenow", "100")
    expect(page.locator(".figure").filter(has_text="Rows done")).to_contain_text("120")
    total = api.get(f"/v1/embeddings/jobs/{job}/shards").json()["total"]
    assert total > 2
    expect(page.get_by_role("img", name=f"done {total}, done, with failed rows 0")).to_be_visible()
    first_cell = "document.querySelector('canvas.shards').getContext('2d').getImageData(3, 3, 1, 1).data.join()"
    assert page.evaluate(first_cell) == "60,154,98,255"
    page.get_by_label("Colours").select_option("dark")
    wait_until(lambda: page.evaluate(first_cell) == "60,143,94,255")
    # Said to a screen reader, without anybody asking.
    expect(page.locator("main p[role=status]").first).to_have_text("The job is completed now.")


def test_a_job_is_paused_resumed_cancelled_and_deleted_by_buttons(
    open_page: OpenPage, api: httpx.Client, nothing_left: None
) -> None:
    job = submit(api, rows(3000), model="slow")
    page = open_page(f"job/{job}")
    page.get_by_role("button", name="Pause").click()
    expect(status(page)).to_have_text("paused")
    assert api.get(f"/v1/embeddings/jobs/{job}").json()["status"] == "paused"

    page.get_by_role("button", name="Resume").click()
    expect(status(page)).to_have_text("running")

    page.get_by_role("button", name="Cancel the job").click()
    page.get_by_role("dialog").get_by_role("button", name="Go on").click()
    expect(status(page)).to_have_text("running")
    page.get_by_role("button", name="Cancel the job").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(status(page)).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)

    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    assert api.get(f"/v1/embeddings/jobs/{job}").status_code == 404


def test_failed_rows_are_listed_in_pages(open_page: OpenPage, api: httpx.Client, nothing_left: None) -> None:
    job = submit(api, rows(3) + BAD * 23, model="quick")
    page = open_page(f"job/{job}")
    expect(status(page)).to_have_text("completed")

    errors = page.get_by_role("region", name="Rows that failed").first
    expect(errors.get_by_role("row")).to_have_count(21)  # a head, and twenty
    expect(errors.get_by_role("row").nth(1)).to_contain_text("the line is not valid JSON")
    errors.get_by_role("button", name="More").click()
    expect(errors.get_by_role("row")).to_have_count(4)
    errors.get_by_role("button", name="Back").click()
    expect(errors.get_by_role("row")).to_have_count(21)

    page.get_by_role("button", name="Retry the failed rows").click()
    expect(page.get_by_role("alert").filter(has_text="none of the failed rows has a text")).to_be_visible()


def test_failed_rows_are_run_again_by_a_button(open_page: OpenPage, api: httpx.Client, nothing_left: None) -> None:
    job = submit(api, rows(3) + '{"text": "a poison"}\n', model="quick")
    page = open_page(f"job/{job}")
    page.get_by_role("button", name="Retry the failed rows").click()
    expect(page.locator("dl.facts")).to_contain_text("Retries1")
    expect(status(page)).to_have_text("completed")
    expect(page.get_by_role("region", name="Rows that failed").first).to_contain_text("the model failed on this text")


def test_what_the_server_has_against_it_is_said_in_its_own_words(
    open_page: OpenPage, api: httpx.Client, nothing_left: None
) -> None:
    job = submit(api, rows(3000), model="slow")
    page = open_page(f"job/{job}")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    # Somebody else cancels it, and this page has not heard of it yet.
    page.route("**/pause", lambda route: (api.post(f"/v1/embeddings/jobs/{job}/cancel"), route.continue_()))
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("alert").filter(has_text="it can no longer be paused")).to_be_visible()

    page.goto(page.url.replace(job, "job_" + "0" * 36))
    expect(page.get_by_role("alert").filter(has_text="no such job")).to_be_visible()


def test_the_list_has_pages_and_a_filter(open_page: OpenPage, api: httpx.Client, nothing_left: None) -> None:
    jobs = [submit(api, rows(1), model="quick") for _ in range(21)]
    paused = submit(api, rows(3000), model="slow")
    api.post(f"/v1/embeddings/jobs/{paused}/pause")
    page = open_page("jobs")

    table = page.get_by_role("group", name="Jobs")
    expect(table.get_by_role("row")).to_have_count(21)
    page.get_by_role("link", name="More").click()
    expect(table.get_by_role("row")).to_have_count(3)
    expect(table.get_by_role("link", name=jobs[0][:14])).to_be_visible()

    page.get_by_label("Show").select_option(label="paused")
    expect(table.get_by_role("row")).to_have_count(2)
    expect(table.get_by_role("row").nth(1)).to_contain_text("paused")


def test_nothing_that_a_job_says_becomes_a_part_of_the_page(open_page: OpenPage, api: httpx.Client, nothing_left: None) -> None:
    evil = "<img src=x onerror=window.pwned=1>"
    line = f'{{"id": "{evil}", "text": "a"}}\n'
    response = api.post(
        "/v1/embeddings/jobs",
        json={
            "model": evil,
            "input": ["a", {"id": evil, "text": "b"}, {"id": evil, "text": "c"}],
            "metadata": {evil[:60]: evil, "file": evil},
        },
    )
    assert response.status_code == 202, response.text
    job = response.json()["id"]
    submit(api, line * 2, model=evil)

    page = open_page("live")
    expect(page.get_by_role("region", name="Models").first).to_contain_text(evil)
    page.goto(page.url.replace("#/live", f"#/job/{job}"))
    expect(page.get_by_role("heading", level=1)).to_have_text(evil)
    expect(page.locator("dl.facts")).to_contain_text(evil)
    expect(page.get_by_role("region", name="Rows that failed").first).to_contain_text(evil)
    page.goto(page.url.replace(f"#/job/{job}", "#/jobs"))
    expect(page.get_by_role("link", name=evil)).to_be_visible()
    page.goto(page.url.replace("#/jobs", f"#/job/{evil}"))
    expect(page.get_by_role("heading", level=1)).to_contain_text(evil)

    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x]").count() == 0


def test_results_are_downloaded_to_disk_where_a_key_is_needed(
    open_page: OpenPage, installation: Service, keyed_url: str, nothing_left: None, tmp_path: Path
) -> None:
    with httpx.Client(base_url=keyed_url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as api:
        job = submit(api, rows(30), model="quick")
        page = open_page(f"job/{job}", url=keyed_url)
        page.locator("#key").fill(KEY)
        page.get_by_role("button", name="Go on").click()
        expect(status(page)).to_have_text("completed")

        page.evaluate("delete window.showSaveFilePicker")  # it opens a window that no test can answer
        with page.expect_download() as begun:
            page.get_by_role("button", name="Download Parquet").click()
        begun.value.save_as(tmp_path / "results.parquet")
        assert begun.value.suggested_filename == f"{job}-results.parquet"
        assert pq.read_table(tmp_path / "results.parquet").num_rows == 30
        assert KEY not in begun.value.url
        # The address was good once.
        assert api.get(begun.value.url, headers={"Authorization": ""}).status_code == 404
        api.delete(f"/v1/embeddings/jobs/{job}")
