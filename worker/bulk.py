"""The worker's end of the bulk lane: one shard -> engine -> committed output, and nothing lost on the way.

Storage tells what is left to do, so every way out of `run` is safe: what was not committed is sent again by the leader.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from redis.exceptions import RedisError

from shared import records
from shared.errors import EngineFailed, NotFound, StorageAway, UmekomiError, Unavailable, to_wire
from shared.intake.batch import count_requests
from shared.jobs.finishing import finish
from shared.jobs.job import FINALIZE, PREPARE, Job, JobView
from shared.jobs.jobs import Jobs
from shared.logs import get_logger
from shared.models import ModelConfig, ModelRegistry
from shared.records import ShardCounts
from shared.settings import Settings
from worker.engine import Embedded, EmbedRequest, Engine
from worker.poison import Span, plan
from worker.reuse import Reuse
from worker.vector_cache import Landed, VectorCache

logger = get_logger(__name__)

T = TypeVar("T")

# In the metadata of a span's table: its rows whose vector was not made for them.
_DEDUPLICATED = b"umekomi.deduplicated"

# A step that travels as a shard does (PREPARE, FINALIZE): given the job, and a look whether it was stopped meanwhile. It
# may run twice, and raises CancelledError when it is stopped, StorageAway or Unavailable to be tried again later.
Step = Callable[[JobView, Callable[[], bool]], None]


@dataclass(slots=True)
class RunningShard:
    """A shard that this process is running now."""

    job: Job
    shard: int
    is_stopped: bool = False  # paused, cancelled or deleted meanwhile
    future: Future[Any] | None = None  # of the engine, or of another shard that embeds the same text


@dataclass(frozen=True, slots=True)
class _Rows:
    """Input rows of a span and what the engine is to be asked about them."""

    table: pa.Table
    positions: list[int] = field(default_factory=list)  # rows that are no errors already
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _SpanAsker:
    """How a span of a shard comes by its vectors: see worker.vector_cache.Asker."""

    runner: ShardRunner
    running: RunningShard
    model: ModelConfig
    span: Span

    def ask(self, texts: Sequence[str]) -> Embedded:
        return self.runner.try_span(self.running, self.model, self.span, texts)

    def wait(self, future: Future[Landed | None]) -> Landed | None:
        return _wait(self.running, future)


class ShardRunner:
    """Runs shards, from as many threads as Celery's pool has."""

    def __init__(
        self,
        jobs: Jobs,
        engine: Engine,
        registry: ModelRegistry,
        settings: Settings,
        worker_id: str,
        steps: Mapping[int, Step] | None = None,
        cache: VectorCache | None = None,
    ) -> None:
        self._steps = steps or {}
        cache = cache or VectorCache(jobs.store.storage, settings.vector_cache_memory_bytes)
        self._reuse = Reuse(jobs.store, engine, cache)
        self._jobs = jobs
        self._engine = engine
        self._registry = registry
        self._settings = settings
        self._worker_id = worker_id
        self._running: dict[tuple[str, int], RunningShard] = {}
        self._lock = threading.Lock()

    def run(self, job_id: str, shard: int) -> None:
        """Embed the shard unless it is done, stopped or run by somebody else. Raises nothing."""
        try:
            view = self._jobs.view(job_id)
        except NotFound:
            return  # deleted
        except StorageAway as error:
            logger.warning("shard put off", job=job_id, shard=shard, reason=str(error))
            return
        if not _is_due(view, shard):
            self._release(view.job, shard)
            return
        running = RunningShard(view.job, shard)
        if not self._begin(running):
            return
        may_release = True
        try:
            if shard in self._steps:
                self._steps[shard](view, lambda: running.is_stopped)
                self._jobs.announce(job_id)
            else:
                self._run(running)
        except CancelledError:
            logger.info("shard stopped", job=job_id, shard=shard)
            self._clean_up(job_id)
        except (StorageAway, Unavailable) as error:
            # Not released: sent again when the lease has run out, which is the pause that a full disk or a reload needs.
            may_release = False
            logger.warning("shard put off", job=job_id, shard=shard, reason=str(error))
        except Exception:
            may_release = False
            logger.exception("shard failed", job=job_id, shard=shard)
        finally:
            with self._lock:
                self._running.pop((job_id, shard), None)
            if may_release:
                self._release(view.job, shard)

    def _clean_up(self, job_id: str) -> None:
        """If the job was deleted, what was written for it since goes too."""
        try:
            self._jobs.store.discard_if_deleted(job_id)
        except StorageAway as error:
            logger.warning("deleted job not cleaned up", job=job_id, reason=str(error))

    def renew(self) -> None:
        """Keep the leases of what runs here. Raises RedisError."""
        with self._lock:
            leases = [(job_id, running.job.model, shard) for (job_id, shard), running in self._running.items()]
        if leases:
            self._jobs.index.renew(leases, self._worker_id, self._settings.lease_s)

    def stop_those_stopped(self) -> None:
        """Give up the shards whose job was paused, cancelled or deleted; a batch that runs ends first. Raises RedisError."""
        with self._lock:
            running = list(self._running.values())
        stopped = self._jobs.index.stopped({one.job.id for one in running}) if running else set()
        for one in running:
            # Redis may have been wiped; storage says whether the job is really gone.
            if one.job.id in stopped and not one.is_stopped and self._is_stopped(one.job):
                one.is_stopped = True
                if one.future is not None:
                    one.future.cancel()

    def _is_stopped(self, job: Job) -> bool:
        if not self._jobs.store.exists(job.id):
            return True
        marks = self._jobs.store.marks(job.id)
        return marks.cancelled_at is not None or marks.paused_at is not None or marks.done is not None

    def _begin(self, running: RunningShard) -> bool:
        """Whether the shard is ours to run."""
        job, shard = running.job, running.shard
        with self._lock:
            if (job.id, shard) in self._running:
                return False
            self._running[job.id, shard] = running
        try:
            leased = self._jobs.index.lease(job.id, job.model, shard, self._worker_id, self._settings.lease_s)
        except RedisError:
            leased = True  # a lease saves double work; without Redis it is done twice at worst, and committed once
        if not leased:
            with self._lock:
                self._running.pop((job.id, shard), None)
        return leased

    def _run(self, running: RunningShard) -> None:
        job, shard, store = running.job, running.shard, self._jobs.store
        counts = store.counts(job.id, shard)
        if counts is None:
            started_at = time.time()
            table = self._embed_shard(running)
            counts = _count(job, table, started_at)
            if running.is_stopped:
                raise CancelledError
            if not store.commit(job.id, shard, table, counts):
                counts = store.counts(job.id, shard)  # another was first, and its output is the one that counts
                if counts is None:
                    return
            seconds = counts.finished_at - started_at
            logger.info(
                "shard embedded",
                job=job.id,
                shard=shard,
                rows=counts.rows,
                deduplicated=counts.deduplicated,
                tokens=counts.tokens,
                seconds=round(seconds, 3),
            )
        try:
            self._jobs.index.committed(job.id, shard, counts)
        except RedisError:
            pass  # the leader reads it from storage
        finish(self._jobs, job)

    def _embed_shard(self, running: RunningShard) -> pa.Table:
        job, shard, store = running.job, running.shard, self._jobs.store
        try:
            with store.open_input(job.id, shard) as source:
                rows = records.read_table(source)
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            logger.error("input not readable", job=job.id, shard=shard, error=type(error).__name__)
            return _to_output(
                _nothing_left(job, shard), None, [], UmekomiError("the stored input is damaged", code="input_damaged")
            )
        crashes = store.crashes(job.id, shard)
        if not crashes:
            return self._embed_span(running, rows, (0, len(rows)))
        parts = store.parts(job.id, shard)
        todo = plan(len(rows), crashes, parts, self._settings.max_attempts)
        if todo.spans == [(0, len(rows))]:
            return self._embed_span(running, rows, (0, len(rows)))
        logger.warning("shard run in parts", job=job.id, shard=shard, parts=len(todo.spans), poison=len(todo.poison))
        for span in todo.spans:
            parts[span] = self._embed_span(running, rows, span)
            store.put_part(job.id, shard, span, parts[span])
        deadly = EngineFailed("the worker died each time it ran this text")
        for row in todo.poison:
            parts[row, row + 1] = _to_output(rows.slice(row, 1), None, [], deadly)
        whole = pa.concat_tables([parts[span].replace_schema_metadata() for span in sorted(parts)])
        return _with_deduplicated(whole, sum(map(_deduplicated, parts.values())))

    def _embed_span(self, running: RunningShard, rows: pa.Table, span: Span) -> pa.Table:
        """The output rows of a span, and in its schema's metadata how many vectors were not made for it."""
        table = rows.slice(span[0], span[1] - span[0])
        good = _rows_to_embed(table)
        if not good.texts:
            return _to_output(table, None, [], None)
        try:
            model = self._model(running.job)
            reused = self._reuse.embed(running.job, model, good.texts, _SpanAsker(self, running, model, span))
            return _with_deduplicated(_to_output(table, reused.embedded, good.positions, None), reused.deduplicated)
        except (CancelledError, Unavailable):
            raise
        except UmekomiError as wrong:
            # The whole request is wrong (dimensions, prompt): each of its rows says so.
            return _to_output(table, None, good.positions, wrong)

    def try_span(self, running: RunningShard, model: ModelConfig, span: Span, texts: Sequence[str]) -> Embedded:
        """Have texts of a span embedded; the try is noted durably before the model sees them, withdrawn if nothing crashed."""
        job, shard, store = running.job, running.shard, self._jobs.store
        number = store.begin_attempt(job.id, shard, span, self._worker_id)
        try:
            return self._ask_engine(running, model, texts)
        finally:
            # Reached unless the process dies, and dying is what a try counts.
            store.withdraw_attempt(job.id, shard, number)

    def _model(self, job: Job) -> ModelConfig:
        model = self._registry.get(job.model)
        # Each request of a batch may ask for other dimensions: its vectors are cut when its files are written.
        return model.model_copy(update={"dimensions": None}) if job.kind == "batch" else model

    def _ask_engine(self, running: RunningShard, model: ModelConfig, texts: Sequence[str]) -> Embedded:
        parameters = running.job.parameters
        future = self._engine.submit(
            EmbedRequest(
                model=model,
                lane="bulk",
                texts=texts,
                dimensions=parameters.dimensions,
                prompt_name=parameters.prompt_name,
                input_type=parameters.input_type,
                truncate=parameters.truncate,
            )
        )
        return _wait(running, future)

    def _release(self, job: Job, shard: int) -> None:
        try:
            self._jobs.index.release(job.id, job.model, shard, self._worker_id)
        except RedisError:
            pass  # the lease runs out by itself


def _is_due(view: JobView, shard: int) -> bool:
    """Whether this step of the job is still to be done, and may be."""
    job, marks = view.job, view.marks
    if marks.done is not None or marks.paused_at is not None:
        return False
    if shard == FINALIZE:
        return view.is_to_finalize(time.time())
    if marks.cancelled_at is not None or view.is_to_finalize(time.time()):
        return False
    return not job.is_prepared if shard == PREPARE else 0 <= shard < len(job.shards)


def _wait(running: RunningShard, future: Future[T]) -> T:
    """The future's result. Raises CancelledError if the shard is stopped before."""
    running.future = future
    if running.is_stopped:
        future.cancel()
    return future.result()


def _nothing_left(job: Job, shard: int) -> pa.Table:
    """Rows of a shard of which only the number is known."""
    first = sum(job.shards[:shard])
    columns = {"index": pa.array(range(first, first + job.shards[shard]), pa.int64())}
    nulls = {field.name: pa.nulls(job.shards[shard], field.type) for field in records.INPUT_SCHEMA if field.name != "index"}
    return pa.table(columns | nulls, schema=records.INPUT_SCHEMA)


def _rows_to_embed(table: pa.Table) -> _Rows:
    mask = pc.is_null(table["error"])
    positions = np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()
    return _Rows(table, positions, table["text"].filter(mask).to_pylist())


def _to_output(table: pa.Table, embedded: Embedded | None, positions: list[int], error: UmekomiError | None) -> pa.Table:
    """Output rows of input rows: `embedded` belongs to those at `positions`; `error` is what the others of them get."""
    rows = len(table)
    dimensions = embedded.vectors.shape[1] if embedded is not None else 1
    vectors = np.zeros((rows, dimensions), dtype=np.float32)
    tokens = np.zeros(rows, dtype=np.int32)
    truncated = np.zeros(rows, dtype=bool)
    errors: list[str | None] = table["error"].to_pylist()
    if embedded is not None:
        vectors[positions] = embedded.vectors
        tokens[positions] = embedded.tokens
        truncated[positions] = embedded.truncated
        for position, wrong in embedded.errors.items():
            errors[positions[position]] = error_json(wrong)
    if error is not None:
        errors = [error_json(error) if wrong is None else wrong for wrong in errors]
    failed = np.array([wrong is not None for wrong in errors], dtype=bool)
    offsets = pa.array(np.arange(0, (rows + 1) * dimensions, dimensions, dtype=np.int32))
    column = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)), mask=pa.array(failed))
    return pa.table(
        {
            "index": table["index"],
            "line": table["line"],
            "id": table["id"],
            "vector": column,
            "tokens": pa.array(tokens),
            "truncated": pa.array(truncated & ~failed),
            "metadata": table["metadata"],
            "error": pa.array(errors, pa.string()),
        },
        schema=records.OUTPUT_SCHEMA,
    )


def error_json(error: UmekomiError) -> str:
    """What an error row says: {code, message, param}."""
    wire = to_wire(error)
    return orjson.dumps({"code": wire["reason"], "message": wire["message"], "param": wire["param"]}).decode()


def _count(job: Job, table: pa.Table, started_at: float) -> ShardCounts:
    failed = len(table) - table["error"].null_count
    requests, failed_requests = count_requests(table) if job.kind == "batch" else (0, 0)
    sum_of: Callable[[str], int] = lambda column: int(pc.sum(table[column]).as_py() or 0)  # noqa: E731
    return ShardCounts(
        rows=len(table),
        failed=failed,
        truncated=sum_of("truncated"),
        tokens=sum_of("tokens"),
        started_at=started_at,
        finished_at=time.time(),
        requests=requests,
        failed_requests=failed_requests,
        deduplicated=_deduplicated(table),
    )


def _with_deduplicated(table: pa.Table, rows: int) -> pa.Table:
    return table.replace_schema_metadata({_DEDUPLICATED: str(rows)})


def _deduplicated(table: pa.Table) -> int:
    return int((table.schema.metadata or {}).get(_DEDUPLICATED, 0))
