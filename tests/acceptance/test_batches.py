"""Batches through the real processes by the clients that people have: both majors of openai's, and litellm."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.acceptance.conftest import Encode
from tests.clients import openai_batches
from tests.support.service import Service
from tests.support.texts import cosines, some_texts

MODEL = "all-MiniLM-L6-v2"
SCRIPTS = Path(openai_batches.__file__).parent
# Installed by `make test`: their dependencies would change the versions that .venv is pinned to.
OTHER_PYTHON = Path(__file__).parents[2] / ".venv-clients" / "bin" / "python"
needs_other_clients = pytest.mark.skipif(
    not OTHER_PYTHON.exists() and "CI" not in os.environ, reason="make .venv-clients/installed has not run"
)


def line(custom_id: str, given: Any, **body: Any) -> str:
    body = {"model": MODEL, "input": given} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body})


@pytest.fixture
def texts() -> list[str]:
    return some_texts(6, 51)


@pytest.fixture
def input_file(tmp_path: Path, texts: list[str]) -> Path:
    lines = [
        line("plain", texts[0]),
        line("several", texts[1:4], encoding_format="base64"),
        line("cut", texts[4], dimensions=64, encoding_format="float"),
        line("empty", ""),
        line("wide", texts[5], dimensions=5000),
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def check(found: dict[str, Any], texts: list[str], encode: Encode) -> None:
    """Every request answered once, with the library's vectors; the wrong ones in the error file."""
    batch = found["batch"]
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 5, "completed": 3, "failed": 2}
    assert batch["usage"]["total_tokens"] > 0
    assert batch["metadata"] == {"night": "1"}
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"] < batch["expires_at"]
    lines = {each["custom_id"]: each["response"] for each in found["output"]}
    assert list(lines) == ["plain", "several", "cut"]
    vectors = encode(texts)
    plain = [lines["plain"]["body"]["data"][0]["embedding"]]
    several = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in lines["several"]["body"]["data"]]
    assert cosines([*plain, *several], vectors[:4]).min() >= 0.9999
    cut = np.array(lines["cut"]["body"]["data"][0]["embedding"])
    assert cut.shape == (64,)
    assert cosines([cut], vectors[4:5, :64]).min() >= 0.9999
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-5)
    assert lines["plain"]["body"]["model"] == MODEL


def check_openai(found: dict[str, Any], texts: list[str], encode: Encode) -> None:
    check(found, texts, encode)
    assert found["created"] in ("validating", "in_progress")
    assert found["file"]["expires_at"] - found["file"]["created_at"] == 7200
    assert {each["custom_id"]: each["response"]["status_code"] for each in found["errors"]} == {"empty": 400, "wide": 400}
    assert found["errors"][1]["response"]["body"]["error"]["param"] == "dimensions"
    assert found["batch"]["id"] in found["batches"]
    assert found["file"]["id"] in found["files"]
    assert found["cancelled"] == [None, "cancelling"]
    assert found["deleted"] == {"id": found["file"]["id"], "object": "file", "deleted": True}
    assert found["afterwards"] == "not_found"


def run(script: str, service: Service, input_file: Path) -> dict[str, Any]:
    """What a script prints that runs with the other clients."""
    done = subprocess.run(
        [OTHER_PYTHON, SCRIPTS / script, f"{service.url}/v1", input_file], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_official_client_gets_its_batch(service: Service, input_file: Path, texts: list[str], encode: Encode) -> None:
    found = openai_batches.run(f"{service.url}/v1", str(input_file))
    check_openai(found, texts, encode)


@needs_other_clients
def test_so_does_the_major_before_it(service: Service, input_file: Path, texts: list[str], encode: Encode) -> None:
    found = run("openai_batches.py", service, input_file)
    assert found["version"].startswith("2.")
    check_openai(found, texts, encode)


@needs_other_clients
def test_so_does_litellm(service: Service, input_file: Path, texts: list[str], encode: Encode) -> None:
    found = run("litellm_batches.py", service, input_file)
    check(found, texts, encode)
    assert found["batch"]["id"] in found["batches"]


def make_batch(service: Service, lines: list[str]) -> dict[str, Any]:
    with service.client() as client:
        file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", "\n".join(lines).encode())}).json()
        fields = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        batch: dict[str, Any] = client.post("/v1/batches", json=fields).json()
    return batch


def get(service: Service, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = httpx.get(f"{service.url}/v1/batches/{batch_id}", timeout=30).json()
    return batch


def read(service: Service, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(each) for each in httpx.get(f"{service.url}/v1/files/{file_id}/content", timeout=60).text.splitlines()]


def test_a_batch_survives_the_kill_of_its_worker_and_is_answered_once(service: Service) -> None:
    texts = some_texts(200, 52)
    batch_id = make_batch(service, [line(f"r{number}", text) for number, text in enumerate(texts)])["id"]
    service.wait_for(lambda: get(service, batch_id)["request_counts"]["completed"] > 0, "the first requests")
    service.kill_worker()
    service.start_worker()
    counts = []

    def is_done() -> bool:
        batch = get(service, batch_id)
        counts.append(batch["request_counts"]["completed"])
        return bool(batch["status"] == "completed")

    service.wait_for(is_done, "the batch", 90)
    assert counts == sorted(counts)
    batch = get(service, batch_id)
    assert batch["request_counts"] == {"total": 200, "completed": 200, "failed": 0}
    assert [each["custom_id"] for each in read(service, batch["output_file_id"])] == [f"r{number}" for number in range(200)]


def test_a_cancelled_batch_has_a_line_for_every_request(service: Service) -> None:
    lines = [line(f"r{number}", text) for number, text in enumerate(some_texts(800, 53))]
    batch_id = make_batch(service, lines)["id"]
    service.wait_for(lambda: get(service, batch_id)["request_counts"]["completed"] > 0, "the first requests")
    cancelling = httpx.post(f"{service.url}/v1/batches/{batch_id}/cancel", headers={"Content-Type": "application/json"}).json()
    assert cancelling["status"] in ("cancelling", "cancelled")
    service.wait_for(lambda: get(service, batch_id)["status"] == "cancelled", "the end")
    batch = get(service, batch_id)
    output, errors = read(service, batch["output_file_id"]), read(service, batch["error_file_id"])
    assert batch["request_counts"] == {"total": 800, "completed": len(output), "failed": len(errors)}
    assert 0 < len(output) < 800
    assert sorted(each["custom_id"] for each in output + errors) == sorted(f"r{number}" for number in range(800))
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert batch["cancelled_at"] <= time.time() + 1


def test_a_wrong_file_is_a_failed_batch(service: Service) -> None:
    batch_id = make_batch(service, [line("a", "x"), line("a", "y"), "no json"])["id"]
    service.wait_for(lambda: get(service, batch_id)["status"] == "failed", "the failure")
    errors = get(service, batch_id)["errors"]
    assert [(each["code"], each["line"]) for each in errors["data"]] == [("duplicate_custom_id", 2), ("invalid_json_line", 3)]
