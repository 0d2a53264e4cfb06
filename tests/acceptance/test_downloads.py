"""Models of a hub, brought by a real worker: asked for while they come, and applied while the service runs."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from tests.support.hub import running_hub
from tests.support.models import build_bert
from tests.support.service import Service

MODELS = """
- name: bert
  engine: torch
  parameters: {model: hf://org/bert}
"""


@pytest.mark.timeout(180)
def test_a_model_of_the_hub_is_told_of_while_it_comes_and_answers_once_it_is_here(tmp_path: Path) -> None:
    with running_hub() as hub:
        gate = threading.Event()
        folder = build_bert(tmp_path / "bert")
        hub.add("org/bert", folder, gate=gate)
        hub.add("org/second", folder)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_CACHE": str(tmp_path / "hf" / "hub")}
        service = Service(tmp_path / "service", models=MODELS, environment=environment, interactive_timeout_s=1.5)
        try:
            service.valkey.start()
            service.start_worker()
            service.start_web()
            with service.client() as client:
                _is_told_of(service, client)
                gate.set()
                service.wait_for(lambda: _embed(client, "bert").status_code == 200, "the model to be here", 90)
                assert len(_embed(client, "bert").json()["data"][0]["embedding"]) == 32
                assert len(hub.downloads("model.safetensors")) == 1
                _is_applied(service, client)
        finally:
            gate.set()
            service.stop()


def _is_told_of(service: Service, client: httpx.Client) -> None:
    service.wait_for(lambda: client.get("/v1/models/bert").json().get("state") == "downloading", "the download")
    model = client.get("/v1/models/bert").json()
    assert 0 < model["download"]["total_bytes"] > model["download"]["done_bytes"]
    assert any("the model bert is being downloaded" in each for each in client.get("/readyz").json()["missing"])

    refused = _embed(client, "bert")

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_not_ready"
    assert "'bert' is being downloaded: " in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 29


def _is_applied(service: Service, client: httpx.Client) -> None:
    body = {"id": "huggingface://org/second", "name": "second", "overrides": {"engine": "torch", "alias": "other"}}
    applied = client.post("/models/apply", json=body).json()
    assert applied["status"] == f"{service.url}/models/jobs/{applied['uuid']}"

    service.wait_for(lambda: client.get(applied["status"]).json()["processed"], "the job to end")

    job = client.get(applied["status"]).json()
    assert (job["error"], job["progress"], job["gallery_element_name"]) == (None, 100.0, "second")
    assert "second" in [model["id"] for model in client.get("/v1/models").json()["data"]]
    service.wait_for(lambda: _embed(client, "other").status_code == 200, "the applied model to answer")


def _embed(client: httpx.Client, model: str) -> httpx.Response:
    return client.post("/v1/embeddings", json={"model": model, "input": "query: 夕飯はお肉です。"})
