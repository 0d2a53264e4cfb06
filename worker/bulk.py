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

import pyarrow as pa
from redis.exceptions import RedisError

from shared import metrics, records, traces
from shared.errors import EngineFailed, NotFound, StorageAway, UmekomiError, Unavailable
from shared.jobs.finishing import finish
from shared.jobs.job import FINALIZE, PREPARE, Job, JobView
from shared.jobs.jobs import Jobs
from shared.logs import get_logger
from shared.models import ModelConfig, Models
from shared.settings import Settings
from worker.engine import Embedded, EmbedRequest, Engine
from worker.poison import Span, plan
from worker.reuse import Reuse
from worker.rows import count, deduplicated, rows_to_embed, to_output, unreadable_rows, with_deduplicated
from worker.spans import trace_engine
from worker.vector_cache import Landed, VectorCache

logger = get_logger(__name__)

T = TypeVar("T")
# What their spans are called.
STEPS = {PREPARE: "prepare", FINALIZE: "finalize"}


# A step that travels as a shard does (PREPARE, FINALIZE): given the job, and a look whether it was stopped meanwhile. It
# may run twice, and raises CancelledError when it is stopped, StorageAway or Unavailable to be tried again later.
Step = Callable[[JobView, Callable[[], bool]], None]


@dataclass(slots=True)
class RunningShard:
    """A shard that this process is running now."""

    job: Job
    shard: int
    began_at: float = field(default_factory=time.time)  # unix seconds
    is_stopped: bool = False  # paused, cancelled or deleted meanwhile
    future: Future[Any] | None = None  # of the engine, or of another shard that embeds the same text


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
        registry: Models,
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
            view = self._jobs.glance(job_id)
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
            name = STEPS.get(shard, "shard")
            facts: dict[str, traces.Attribute | None] = {"job": job_id, "shard": shard, "model": view.job.model, "lane": "bulk"}
            with traces.span(name, view.job.traceparent, kind="consumer", facts=facts):
                if shard in self._steps:
                    self._steps[shard](view, lambda: running.is_stopped)
                    self._jobs.announce(job_id)
                else:
                    self._run(running)
        except CancelledError:
            self._count(view.job, "stopped")
            logger.info("shard stopped", job=job_id, shard=shard)
            self._clean_up(job_id)
        except (StorageAway, Unavailable) as error:
            # Not released: sent again when the lease has run out, which is the pause that a full disk or a reload needs.
            may_release = False
            self._count(view.job, "put_off")
            logger.warning("shard put off", job=job_id, shard=shard, reason=str(error))
        except Exception:
            may_release = False
            self._count(view.job, "failed")
            logger.exception("shard failed", job=job_id, shard=shard)
        finally:
            with self._lock:
                self._running.pop((job_id, shard), None)
            if may_release:
                self._release(view.job, shard)

    def _count(self, job: Job, outcome: str) -> None:
        metrics.SHARDS_RUN.inc(1, job.model, outcome)

    def _clean_up(self, job_id: str) -> None:
        """If the job was deleted, what was written for it since goes too."""
        try:
            self._jobs.store.discard_if_deleted(job_id)
        except StorageAway as error:
            logger.warning("deleted job not cleaned up", job=job_id, reason=str(error))

    def running(self) -> list[RunningShard]:
        """What runs here now."""
        with self._lock:
            return list(self._running.values())

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
            counts = count(job, table, started_at)
            if running.is_stopped:
                raise CancelledError
            if not store.commit(job.id, shard, table, counts):
                counts = store.counts(job.id, shard)  # another was first, and its output is the one that counts
                if counts is None:
                    return
            seconds = counts.finished_at - started_at
            traces.current().tell({"rows": counts.rows, "failed": counts.failed, "tokens": counts.tokens})
            self._count(job, "embedded")
            metrics.SHARD_SECONDS.observe(seconds, job.model)
            metrics.DEDUPLICATED.inc(counts.deduplicated, job.model)
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
            return to_output(
                unreadable_rows(job, shard), None, [], UmekomiError("the stored input is damaged", code="input_damaged")
            )
        crashes = store.crashes(job.id, shard)
        if not crashes:
            return self._embed_span(running, rows, (0, len(rows)))
        metrics.SHARD_RETRIES.inc(1, job.model)
        parts = store.parts(job.id, shard)
        todo = plan(len(rows), crashes, parts, self._settings.max_attempts)
        if todo.spans == [(0, len(rows))]:
            return self._embed_span(running, rows, (0, len(rows)))
        logger.warning("shard run in parts", job=job.id, shard=shard, parts=len(todo.spans), poison=len(todo.poison))
        for span in todo.spans:
            parts[span] = self._embed_span(running, rows, span)
            store.put_part(job.id, shard, span, parts[span])
        metrics.POISON_ROWS.inc(len(todo.poison), job.model)
        deadly = EngineFailed("the worker died each time it ran this text")
        for row in todo.poison:
            parts[row, row + 1] = to_output(rows.slice(row, 1), None, [], deadly)
        whole = pa.concat_tables([parts[span].replace_schema_metadata() for span in sorted(parts)])
        return with_deduplicated(whole, sum(map(deduplicated, parts.values())))

    def _embed_span(self, running: RunningShard, rows: pa.Table, span: Span) -> pa.Table:
        """The output rows of a span, and in its schema's metadata how many vectors were not made for it."""
        table = rows.slice(span[0], span[1] - span[0])
        good = rows_to_embed(table)
        if not good.texts:
            return to_output(table, None, [], None)
        try:
            model = self._model(running.job)
            reused = self._reuse.embed(running.job, model, good.texts, _SpanAsker(self, running, model, span))
            return with_deduplicated(to_output(table, reused.embedded, good.positions, None), reused.deduplicated)
        except (CancelledError, Unavailable):
            raise
        except UmekomiError as wrong:
            # The whole request is wrong (dimensions, prompt): each of its rows says so.
            return to_output(table, None, good.positions, wrong)

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
        model = self._registry.models.get(job.model)
        if model is None:
            # It left the configuration: its shards wait until it is back, here or on another worker. See job_object's reason.
            raise Unavailable(f"this worker does not serve the model {job.model!r}")
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
        embedded = _wait(running, future)
        if traces.is_on():
            trace_engine(traces.current(), time.time(), embedded.queue_s, embedded.embed_s)
        return embedded

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
