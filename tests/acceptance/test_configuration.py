"""models.yaml edited while the service runs: asks, jobs and /readyz follow, and a broken edit changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import Service, running_service


def entry(name: str, dimensions: int = 8, seconds_per_token: float = 0) -> str:
    model = f"fake?dimensions={dimensions}&seconds_per_token={seconds_per_token}"
    return f"- {{name: {name}, backend: fake, parameters: {{model: '{model}'}}}}\n"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running_service(
        tmp_path, models=entry("a"), reconcile_interval_s=0.3, lease_s=2, resend_after_s=2, window=1, shards_at_once=1
    ) as service:
        yield service


def edit(service: Service, text: str) -> None:
    """As an editor does: a new file in the old one's place."""
    written = service.directory / "models.yaml.new"
    written.write_text(text)
    written.replace(service.directory / "models.yaml")


def dimensions(client: httpx.Client, model: str) -> int | str:
    """Of an answer's vector, or the error's code."""
    body = client.post("/v1/embeddings", json={"model": model, "input": "a text"}).json()
    return body["error"]["code"] if "error" in body else len(body["data"][0]["embedding"])


def submit(client: httpx.Client, model: str, rows: int) -> dict[str, Any]:
    answer = client.post("/v1/embeddings/jobs", json={"model": model, "input": [f"text {row}" for row in range(rows)]})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_an_edit_is_followed_by_asks_jobs_and_readiness(service: Service) -> None:
    with service.client() as client:
        assert dimensions(client, "b") == "model_not_found"

        # A new model, and another file behind the same name
        edit(service, entry("a", 16) + entry("b", 4, seconds_per_token=0.01))
        service.wait_for(lambda: dimensions(client, "b") == 4, "the new model")
        service.wait_for(lambda: dimensions(client, "a") == 16, "the changed model")

        # Jobs reach a queue that the worker did not know when it started
        job = submit(client, "b", 3)
        service.wait_for(lambda: client.get(f"/v1/embeddings/jobs/{job['id']}").json()["status"] == "completed", "the job")

        # A broken edit changes nothing and is told
        edit(service, "- {name: a, backend: fake, parameters: {mod")
        service.wait_for(lambda: client.get("/readyz").json()["problems"], "the problem")
        assert "is not YAML any longer" in client.get("/readyz").json()["problems"][0]
        assert (dimensions(client, "a"), dimensions(client, "b")) == (16, 4)

        # The model of a running job leaves: the job waits, says so, and goes on when it is back
        job = submit(client, "b", 300)
        edit(service, entry("a", 16))
        service.wait_for(lambda: dimensions(client, "b") == "model_not_found", "the model to be gone")
        service.wait_for(lambda: client.get("/readyz").json()["problems"] == [], "the edit to be taken over in web too")
        waiting = client.get(f"/v1/embeddings/jobs/{job['id']}").json()
        assert waiting["status"] in ("queued", "in_progress")
        assert waiting["reason"].startswith("the model 'b' is not served any more")
        assert waiting["counts"]["failed"] == 0

        edit(service, entry("a", 16) + entry("b", 4))
        service.wait_for(lambda: client.get(f"/v1/embeddings/jobs/{job['id']}").json()["status"] == "completed", "the job")
        done = client.get(f"/v1/embeddings/jobs/{job['id']}").json()
        assert (done["counts"]["completed"], done["counts"]["failed"], done["reason"]) == (300, 0, None)
