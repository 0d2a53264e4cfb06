"""A worker's end of both lanes, small and real: hash vectors over the real protocols, no model library."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from flask.testing import FlaskClient
from redis import Redis

from shared import records
from shared.errors import UmekomiError
from shared.interactive import Answer, Ask, AskServer
from shared.interactive.wire import MAX_BYTES_OF_LENGTH
from shared.jobs.job import Done
from shared.jobs.jobs import Jobs
from shared.keys import AskLength
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.presence import ModelPresence, ModelState, PresenceBoard, WorkerPresence
from shared.records import OUTPUT_SCHEMA, ShardCounts

DIMENSIONS = 8


def model(name: str, **fields: Any) -> ModelConfig:
    """An entry of models.yaml."""
    return ModelConfig(name=name, backend="fake", parameters=Parameters(model="none"), **fields)


def registry(*models: ModelConfig) -> ModelRegistry:
    """The served models."""
    by_name = {config.name: config for config in models} | {config.alias: config for config in models if config.alias}
    return ModelRegistry(by_name)


def vector_of(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A text's vector: its digest, scaled to unit length."""
    raw = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)[:DIMENSIONS].astype(np.float32) + 1
    return (raw / np.linalg.norm(raw)).astype(np.float32)


def presence(state: ModelState = "ready", **fields: Any) -> ModelPresence:
    """What a worker says of a model."""
    return ModelPresence(**({"state": state, "dimensions": DIMENSIONS, "max_tokens": 16, "dtype": "float32"} | fields))


def worker(models: dict[str, ModelPresence], worker_id: str = "w1") -> WorkerPresence:
    """A worker as it announces itself."""
    return WorkerPresence(id=worker_id, host="here", pid=1, device="cpu", started_at=time.time(), shards_at_once=1, models=models)


def hash_answer(ask: Ask) -> Answer | UmekomiError:
    """Vectors from hashes; a text of more than 16 words counts as cut."""
    texts = list(ask.texts) or [str(ids) for ids in ask.token_ids]
    vectors = np.stack([vector_of(text) for text in texts])
    if ask.dimensions is not None:
        vectors = vectors[:, : ask.dimensions] / np.linalg.norm(vectors[:, : ask.dimensions], axis=1, keepdims=True)
    tokens = [len(text.split()) + 2 for text in texts]
    return Answer(
        vectors=vectors.astype(np.float32),
        tokens=[min(count, 18) for count in tokens],
        truncated=[position for position, count in enumerate(tokens) if count > 18],
    )


@dataclass
class AnsweringWorker:
    """Takes asks and answers each with `reply`."""

    redis: Redis
    models: dict[str, ModelPresence]
    reply: Callable[[Ask], Answer | UmekomiError] = hash_answer
    asks: list[Ask] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[AnsweringWorker]:
        board, server, presence = PresenceBoard(self.redis), AskServer(self.redis, "w1"), worker(self.models)
        board.announce(presence)

        # A thread for each length: Redis ends a wait without an ask up to 100 ms late, and no ask is to wait behind that.
        def loop(length: AskLength) -> None:
            while not self._stopping.is_set():
                board.announce(presence)
                taken = server.take(self.models, 64, block_s=0.2, length=length)
                self.asks += [each.ask for each in taken]
                server.answer([(each, self.reply(each.ask)) for each in taken])

        threads = [threading.Thread(target=loop, args=(length,), name=f"answering-{length}") for length in MAX_BYTES_OF_LENGTH]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()


def run_shard(jobs: Jobs, job_id: str, shard: int) -> None:
    """What a worker does with a shard: embed its rows, keep the bad ones as error rows, commit."""
    with jobs.store.open_input(job_id, shard) as source:
        table = records.read_table(source)
    rows = table.to_pylist()
    bad = [row["error"] is not None for row in rows]
    output = pa.Table.from_pylist(
        [
            {
                "index": row["index"],
                "line": row["line"],
                "id": row["id"],
                "vector": None if row["error"] else vector_of(row["text"]),
                "tokens": None if row["error"] else len(row["text"].split()) + 2,
                "truncated": None if row["error"] else False,
                "metadata": row["metadata"],
                "error": row["error"],
            }
            for row in rows
        ],
        schema=OUTPUT_SCHEMA,
    )
    now = time.time()
    counts = ShardCounts(rows=len(rows), failed=sum(bad), truncated=0, tokens=0, started_at=now - 1, finished_at=now)
    assert jobs.store.commit(job_id, shard, output, counts)
    jobs.index.committed(job_id, shard, counts)


def finish(jobs: Jobs, job_id: str) -> None:
    """Run whatever is left of a job, and end it."""
    there = set(jobs.store.committed(job_id))
    for shard in range(len(jobs.store.get(job_id).shards)):
        if shard not in there:
            run_shard(jobs, job_id, shard)
    view = jobs.from_storage(job_id)
    jobs.store.mark_done(
        view.job, Done(status="completed", finished_at=time.time(), counts=view.counts, started_at=view.started_at)
    )
    jobs.announce(job_id)


def error_of(response: Any) -> dict[str, Any]:
    """The error of a response, whose body must be OpenAI's."""
    assert response.mimetype == "application/json", response.data[:200]
    body = orjson.loads(response.data)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert response.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


def embed(client: FlaskClient, body: Any, path: str = "/v1/embeddings", **kwargs: Any) -> Any:
    """POST a body, as JSON unless it is bytes."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return client.post(path, data=raw, content_type=kwargs.pop("content_type", "application/json"), **kwargs)


def rows_of(response: Any) -> list[dict[str, Any]]:
    """The rows of a JSONL response."""
    return [orjson.loads(line) for line in response.data.splitlines()]
