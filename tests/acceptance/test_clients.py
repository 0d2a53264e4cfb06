"""Embeddings by the clients that people have, unchanged: what comes back, and what becomes of errors and of refusals."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.conftest import IDS_MODEL, TIKTOKEN_DIRECTORY, Encode
from tests.clients import openai_embeddings
from tests.support.refusing import RefusingFront
from tests.support.service import Service
from tests.support.texts import cosines, some_texts

MODEL = "all-MiniLM-L6-v2"
ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "clients"
# Each in an installation of its own, which `make test` makes.
CLIENTS = {
    "openai": [str(ROOT / ".venv-clients/bin/python"), "openai_embeddings.py"],
    "litellm": [str(ROOT / ".venv-clients/bin/python"), "litellm_embeddings.py"],
    "langchain": [str(ROOT / ".venv-frameworks/bin/python"), "langchain_embeddings.py"],
    "llama_index": [str(ROOT / ".venv-frameworks/bin/python"), "llama_index_embeddings.py"],
    "haystack": [str(ROOT / ".venv-frameworks/bin/python"), "haystack_embeddings.py"],
    "node": ["node", "node/openai_embeddings.mjs"],
}
TEXTS = [*some_texts(5, 61), "夕飯はお肉です。"]


@pytest.fixture(scope="module")
def front(installation: Service) -> Iterator[RefusingFront]:
    with RefusingFront(installation.url).running() as front:
        yield front


def arguments(name: str, service: Service, front: RefusingFront) -> dict[str, Any]:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": MODEL, "input": TEXTS[0]}}
    return {
        "name": name,
        "base_url": f"{service.url}/v1",
        "refusing_url": front.url,
        "model": MODEL,
        "ids_model": IDS_MODEL,
        "texts": TEXTS,
        "batch": json.dumps(line),
    }


def run(name: str, service: Service, front: RefusingFront) -> dict[str, Any]:
    """What the client's script tells; skips where the client is not installed, which in CI it is."""
    command, script = CLIENTS[name]
    is_there = (SCRIPTS / "node/node_modules/openai").exists() if name == "node" else Path(command).exists()
    if shutil.which(command) is None or not is_there:
        if "CI" in os.environ and name != "node":
            pytest.fail(f"{command} is not there: make test installs it")
        pytest.skip(f"{name} is not installed; make test does it")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI", "UMEKOMI"))} | {
        "TIKTOKEN_CACHE_DIR": str(TIKTOKEN_DIRECTORY),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks GitHub when it is imported
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LANGSMITH_TRACING": "false",
    }
    done = subprocess.run(
        [command, script, json.dumps(arguments(name, service, front))],
        cwd=SCRIPTS,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}\n{service.logs()}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any], encode: Encode, front: RefusingFront, key: str) -> None:
    """The library's vectors, however they were asked for; a refused request was sent again and answered."""
    vectors = encode(TEXTS)
    assert cosines([found["one"]], vectors[:1]).min() >= 0.9999
    assert cosines(found["many"], vectors).min() >= 0.9999
    assert cosines(found["async"], vectors[: len(found["async"])]).min() >= 0.9999
    cut = vectors[:1, :64] / np.linalg.norm(vectors[:1, :64])
    assert cosines([found["cut"]], cut).min() >= 0.9999
    assert len(found["cut"]) == 64
    assert cosines([found["retried"]], vectors[:1]).min() >= 0.9999
    assert front.calls[key] == 2
    if "usage" in found:
        assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 0


def check_openai(found: dict[str, Any]) -> None:
    assert {name: error[:3] for name, error in found["errors"].items()} == {
        "model": ["NotFoundError", "model_not_found", "model"],
        "input": ["BadRequestError", "invalid_value", "input"],
        "dimensions": ["BadRequestError", "invalid_value", "dimensions"],
    } | ({"ids": ["BadRequestError", "token_ids_not_supported", "input"]} if "ids" in found["errors"] else {})
    assert {error[3] for error in found["errors"].values()} == {"req_"}
    assert MODEL in found["models"]


def test_openais_newest_major(service: Service, encode: Encode, front: RefusingFront) -> None:
    found = openai_embeddings.run(arguments("openai-newest", service, front))
    assert found["version"].startswith("3.")
    check(found, encode, front, "openai-newest")
    check_openai(found)
    np.testing.assert_allclose(found["many"], found["floats"], atol=1e-5)  # of two batches, so not to the last bit
    assert found["request_id"] == "mine-1"


def test_openais_major_before(service: Service, encode: Encode, front: RefusingFront) -> None:
    found = run("openai", service, front)
    assert found["version"].startswith("2.")
    check(found, encode, front, "openai")
    check_openai(found)


def test_openais_node_sdk_with_a_batch(service: Service, encode: Encode, front: RefusingFront) -> None:
    found = run("node", service, front)
    check(found, encode, front, "node")
    check_openai(found)
    assert found["batch"] == {"status": "completed", "file": True}
    answer = found["output"][0]["response"]["body"]["data"][0]["embedding"]
    vector = answer if isinstance(answer, list) else np.frombuffer(base64.b64decode(answer), "<f4")
    assert cosines([vector], encode(TEXTS[:1])).min() >= 0.9999


def test_litellm_as_openai_and_as_hosted_vllm(service: Service, encode: Encode, front: RefusingFront) -> None:
    for provider, found in run("litellm", service, front).items():
        check(found, encode, front, f"litellm-{provider}")
        assert found["errors"] == {"model": "NotFoundError"}


def test_llama_index_as_openai_and_as_openai_like(service: Service, encode: Encode, front: RefusingFront) -> None:
    for kind, found in run("llama_index", service, front).items():
        check(found, encode, front, f"llama_index-{kind}Embedding")
        assert found["errors"] == {"model": "NotFoundError"}


def test_haystacks_text_and_document_embedders(service: Service, encode: Encode, front: RefusingFront) -> None:
    found = run("haystack", service, front)
    check(found, encode, front, "haystack")
    assert found["errors"] == {"model": "NotFoundError"}


def test_langchain_with_texts_and_with_its_token_ids(service: Service, encode: Encode, front: RefusingFront) -> None:
    found = run("langchain", service, front)
    check(found, encode, front, "langchain")
    assert found["errors"]["model"][0] == "NotFoundError"
    kind, message = found["errors"]["ids"]
    assert kind == "BadRequestError"
    assert "check_embedding_ctx_length=False" in message
    # Ids of cl100k_base, decoded with tiktoken's own file, are the texts again.
    assert cosines(found["by_ids"], encode(TEXTS)).min() >= 0.9999
    assert cosines([found["query_by_ids"]], encode(TEXTS[:1])).min() >= 0.9999
