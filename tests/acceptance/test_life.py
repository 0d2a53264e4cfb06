"""The life of a job on the real processes: watched from submission to its end, and its webhook told."""

from __future__ import annotations

import json
from typing import Any

import httpx
from openai import OpenAI

from tests.acceptance.conftest import WEBHOOK_SECRET
from tests.acceptance.test_bulk import records, submit
from tests.support.receiver import receiving
from tests.support.service import Service
from tests.support.texts import some_texts


def watch(service: Service, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Every event of the job, to the end of its stream."""
    found, name = [], ""
    with httpx.stream("GET", f"{service.url}/v1/embeddings/jobs/{job_id}/events", timeout=60) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def test_a_job_is_watched_to_its_end_and_its_webhook_told_once_it_listens(service: Service) -> None:
    with receiving() as receiver:
        receiver.answers = [503, 200]
        job = submit(service, records(some_texts(300, 5)), params={"webhook_url": receiver.url})
        events = watch(service, job["id"])
        assert [name for name, _ in events] == ["progress"] * (len(events) - 1) + ["done"]
        assert len(events) >= 2
        progress = [wire["progress"] for _, wire in events]
        assert (progress, progress[-1]) == (sorted(progress), 1)
        # Five seconds after the first try, and a little.
        service.wait_for(lambda: len(receiver.received) == 2, "the webhook to be told", 30)
    got = receiver.received[-1]
    event: Any = OpenAI(api_key="unused", webhook_secret=WEBHOOK_SECRET).webhooks.unwrap(got.body, got.headers)
    assert (event.type, got.json["data"]["id"]) == ("embedding.job.completed", job["id"])
    url = f"{service.url}/v1/embeddings/jobs/{job['id']}"
    service.wait_for(lambda: httpx.get(url).json()["webhook"]["delivered_at"] is not None, "the job to say so", 10)
    assert [attempt["status"] for attempt in httpx.get(url).json()["webhook"]["attempts"]] == [503, 200]
