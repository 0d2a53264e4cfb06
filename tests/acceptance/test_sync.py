"""Questions: real HTTP, real Redis, a real worker, the real model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import httpx
import openai
import pytest

from tests.acceptance.conftest import Encode
from tests.support.service import Service
from tests.support.texts import cosines, some_texts


def test_vectors_are_those_of_the_library(service: Service, encode: Encode) -> None:
    texts = [*some_texts(30, 1), "x", "夕飯はお肉です。", "word " * 2000, "  spaces  "]
    with service.client() as client:
        answer = client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": texts})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [one["index"] for one in body["data"]] == list(range(len(texts)))
    assert cosines([one["embedding"] for one in body["data"]], encode(texts)).min() >= 0.9999
    assert answer.headers["x-truncated-inputs"] == "32"


def test_the_openai_client_works_unchanged(service: Service, encode: Encode) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        answer = client.embeddings.create(model="all-MiniLM-L6-v2", input=["a river", "a stone"], dimensions=64)
        assert [len(one.embedding) for one in answer.data] == [64, 64]
        assert answer.usage.prompt_tokens == 8
        assert cosines([one.embedding for one in answer.data], encode(["a river", "a stone"])[:, :64]).min() >= 0.9999
        assert "all-MiniLM-L6-v2" in [model.id for model in client.models.list()]
        with pytest.raises(openai.NotFoundError) as wrong:
            client.embeddings.create(model="nothing", input="x")
        assert wrong.value.code == "model_not_found"


def test_many_clients_at_once_get_their_own_answers(service: Service, encode: Encode) -> None:
    texts = some_texts(96, 2, (3, 12))
    with service.client() as client, ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda text: client.post("/v1/embeddings", json={"input": text}).json(), texts))
    assert cosines([answer["data"][0]["embedding"] for answer in answers], encode(texts)).min() >= 0.9999


def test_an_ask_whose_worker_is_killed_is_answered_by_another(service: Service) -> None:
    service.start_worker()
    service.wait_for(lambda: _ready_workers(service) == 2, "two workers")
    # Enough work for several seconds, so that the kill hits asks that are being run and asks that wait.
    texts = some_texts(60, 3, (60, 90))
    statuses: list[int] = []
    sent = threading.Barrier(7)

    def ask() -> None:
        with service.client() as client:
            sent.wait()
            statuses.append(client.post("/v1/embeddings", json={"input": texts}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    sent.wait()
    service.wait_for(lambda: _waiting(service) > 0, "the asks to be taken")
    service.kill_worker()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6, service.logs()


def _ready_workers(service: Service) -> int:
    return int(httpx.get(f"{service.url}/readyz").json()["models"]["all-MiniLM-L6-v2"]["workers"])


def _waiting(service: Service) -> int:
    from redis import Redis

    from shared import keys

    with Redis.from_url(service.valkey.url) as redis:
        streams = [keys.asks("all-MiniLM-L6-v2", length) for length in get_args(keys.AskLength)]
        groups = [group for stream in streams if redis.exists(stream) for group in redis.xinfo_groups(stream)]  # type: ignore[union-attr]
        return sum(group["pending"] for group in groups)


def test_without_any_worker_the_answer_is_503_at_once_and_says_when_to_retry(service: Service) -> None:
    service.kill_worker()
    service.wait_for(lambda: _ready_workers(service) == 0, "its death to be noticed")
    answer = httpx.post(f"{service.url}/v1/embeddings", json={"input": "x"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "no_worker"
    assert 1 <= int(answer.headers["retry-after"]) < 30
