"""A submission: from parameters and a body to a job that exists, or to nothing at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
import pyarrow as pa
from redis.exceptions import RedisError

from shared import metrics, traces
from shared.errors import InvalidParameter, StorageAway
from shared.intake import Record
from shared.intake.cutting import DEFAULT_TOKENS_PER_S, ShardCutter
from shared.intake.duplicates import SeenIds
from shared.jobs.job import Job, Source, new_job_id
from shared.jobs.jobs import Jobs
from shared.jobs.store import digest_key
from shared.logs import get_logger
from shared.models import ModelConfig
from shared.presence import ModelPresence, PresenceBoard
from shared.settings import Settings
from shared.webhooks import check_submitted
from web.auth import Caller
from web.native import JobFields
from web.quotas import Quotas

logger = get_logger(__name__)

# What makes records of a body's blocks.
Parse = Callable[[Iterator[bytes]], Iterable[Record]]


class Submissions:
    """Where jobs come in. What is accepted is durable; what is refused or breaks off leaves nothing behind."""

    def __init__(self, settings: Settings, jobs: Jobs, presence: PresenceBoard, quotas: Quotas) -> None:
        self._settings = settings
        self._jobs = jobs
        self._presence = presence
        self._quotas = quotas

    def accept(
        self, caller: Caller, model: ModelConfig, fields: JobFields, key: str | None, blocks: Iterable[bytes], parse: Parse
    ) -> tuple[Job, bool]:
        """The job that exists in the end, and whether it was there before: the same key with the same body makes no second one.

        Raises InvalidParameter, whatever the blocks or the records raise, or StorageAway.
        """

        def store(job_id: str, blocks: Iterator[bytes], live: list[ModelPresence]) -> dict[str, Any]:
            shards = self._store(job_id, parse(blocks), live, fields)
            if not shards:
                raise InvalidParameter("input: there is no text in it", param="input")
            return {"shards": shards}

        return self._accept(caller, model, fields, key, blocks, store)

    def accept_source(
        self, caller: Caller, model: ModelConfig, fields: JobFields, key: str | None, source: Source
    ) -> tuple[Job, bool]:
        """As `accept`, of input that a worker reads."""

        def store(_job_id: str, blocks: Iterator[bytes], live: list[ModelPresence]) -> dict[str, Any]:
            for _ in blocks:
                pass
            sizes = {"shard_tokens": self._shard_tokens(live), "max_shard_rows": self._settings.max_shard_rows}
            unprepared = source.model_copy(update=sizes)
            return {"shards": (), "source": unprepared, "is_prepared": False, "input_bytes": 0}

        return self._accept(caller, model, fields, key, [source.model_dump_json().encode()], store)

    def _accept(
        self,
        caller: Caller,
        model: ModelConfig,
        fields: JobFields,
        key: str | None,
        blocks: Iterable[bytes],
        store: Callable[[str, Iterator[bytes], list[ModelPresence]], dict[str, Any]],
    ) -> tuple[Job, bool]:
        """`store` reads the blocks, writes what is to be written, and tells what the manifest says of the input."""
        live = self._live(model)
        _check(model, fields, live)
        if fields.webhook_url is not None:
            check_submitted(fields.webhook_url, self._settings)
        parameters = {"model": model.name, **fields.model_dump(exclude={"model"})}
        digest = hashlib.sha256(orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS))

        input_bytes = 0

        def digested(blocks: Iterable[bytes]) -> Iterator[bytes]:
            nonlocal input_bytes
            for block in blocks:
                digest.update(block)
                input_bytes += len(block)
                yield block

        if key is not None:
            key = digest_key(key)
            earlier = self._jobs.store.find_by_key(caller.owner, key)
            if earlier is not None:
                for _ in digested(blocks):
                    pass
                return _same(earlier, digest.hexdigest()), True
        job_id = new_job_id()
        with self._quotas.place_for_job(caller):
            bounded = self._quotas.bounded(caller, iter(blocks), "input")
            try:
                stored = store(job_id, digested(bounded), live)
                job = Job(
                    id=job_id,
                    owner=caller.owner,
                    model=model.name,
                    created_at=time.time(),
                    parameters=fields.parameters,
                    priority=fields.priority or "normal",
                    metadata=fields.metadata,
                    on_duplicate=fields.on_duplicate or "error",
                    dedupe=bool(fields.dedupe),
                    cache=bool(fields.cache),
                    webhook_url=fields.webhook_url,
                    idempotency_key=key,
                    input_digest=digest.hexdigest(),
                    traceparent=traces.current().traceparent,
                    **{"input_bytes": input_bytes, **stored},
                )
                existing = self._jobs.submit(job)
            except BaseException:
                self._discard(job_id)
                raise
        if existing.id != job.id:
            return _same(existing, digest.hexdigest()), True
        metrics.JOBS_SUBMITTED.inc(1, job.model)
        metrics.ROWS_SUBMITTED.inc(job.rows, job.model)
        logger.info("job submitted", job=job.id, model=job.model, rows=job.rows, shards=len(job.shards))
        return job, False

    def _store(self, job_id: str, records: Iterable[Record], live: list[ModelPresence], fields: JobFields) -> tuple[int, ...]:
        """Write the input; rows of each shard."""

        def put(number: int, table: pa.Table) -> None:
            self._jobs.store.put_input(job_id, number, table)

        cutter = ShardCutter(
            put,
            shard_tokens=self._shard_tokens(live),
            max_rows=self._settings.max_shard_rows,
            seen=None if fields.on_duplicate == "keep" else SeenIds(),
        )
        cutter.cut(records)
        return tuple(cutter.shards)

    def shard_tokens(self, model: ModelConfig) -> float:
        """Tokens of a shard of this model now."""
        return self._shard_tokens(self._live(model))

    def _shard_tokens(self, live: list[ModelPresence]) -> float:
        measured = [presence.tokens_per_s for presence in live if presence.tokens_per_s]
        # A shard runs on one worker, whichever it is: none should hang on it for long.
        return min(measured, default=DEFAULT_TOKENS_PER_S) * self._settings.shard_seconds

    def _live(self, model: ModelConfig) -> list[ModelPresence]:
        """What the live workers say of the model; nothing if Redis is away, which is no reason to refuse a job."""
        try:
            workers = self._presence.workers()
        except RedisError:
            return []
        return [worker.models[model.name] for worker in workers if model.name in worker.models]

    def _discard(self, job_id: str) -> None:
        try:
            self._jobs.store.discard(job_id)
        except StorageAway as error:
            # Without a manifest it is no job; the workers sweep it up.
            logger.warning("broken upload not removed", job=job_id, error=str(error))


def _check(model: ModelConfig, fields: JobFields, live: list[ModelPresence]) -> None:
    """What only a loaded model tells: refused now rather than as a row of errors."""
    if model.reranking or any(presence.kind == "rerank" for presence in live):
        message = f"model: {model.name!r} is a reranker and makes no embeddings; POST /v1/rerank asks it"
        raise InvalidParameter(message, param="model")
    loaded = [presence for presence in live if presence.dimensions is not None]
    native = max((presence.dimensions for presence in loaded if presence.dimensions is not None), default=None)
    if fields.dimensions is not None and native is not None and fields.dimensions > native:
        raise InvalidParameter(f"dimensions: the model has {native}", param="dimensions")
    names = {name for presence in loaded for name in presence.prompts}
    if fields.prompt_name is not None and loaded and fields.prompt_name not in names:
        known = ", ".join(sorted(names)) or "none"
        raise InvalidParameter(f"prompt_name: the model has no such prompt; it has {known}", param="prompt_name")


def _same(earlier: Job, digest: str) -> Job:
    if earlier.input_digest != digest:
        raise InvalidParameter(
            "Idempotency-Key: it was used for another body or other parameters",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    return earlier
