"""The FINALIZE step: a batch of which nothing more is run gets its output and error files, and its end.

How it ends, and which shards count, is decided once and durably before anything is written. The files' ids and bytes follow
from that, so a second try, or two at once, make the same two files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from redis.exceptions import RedisError

from shared.errors import NotFound, Unavailable
from shared.files import FileStore, FileUpload, derived_file_id
from shared.jobs.finishing import all_committed, end
from shared.jobs.job import Counts, Done, Ending, Job, JobView
from shared.jobs.jobs import Jobs
from shared.logs import get_logger
from shared.models import ModelConfig, Models, Parameters
from shared.records import damage_told
from shared.settings import Settings
from worker.batch_output import Line, answer, gather

logger = get_logger(__name__)

OUTPUT_PURPOSE = "batch_output"
# Rows decoded at once: some megabytes, however wide the vectors.
BATCH_ROWS = 2048


class Finalizer:
    """A worker.bulk.Step."""

    def __init__(self, jobs: Jobs, files: FileStore, registry: Models, settings: Settings) -> None:
        self._jobs = jobs
        self._files = files
        self._registry = registry
        self._settings = settings

    def __call__(self, view: JobView, is_stopped: Callable[[], bool]) -> None:  # noqa: ARG002 - a cancelled batch has files too
        """Raises CancelledError if the batch was deleted, StorageAway or Unavailable to be tried again."""
        try:
            view = self._jobs.from_storage(view.job.id)
        except NotFound:
            raise CancelledError from None
        if not view.is_to_finalize(time.time()):
            all_committed(self._jobs, view.job)  # what Redis took for committed is damaged: it is told so
            return
        ending = self._decide(view)
        if ending is not None:
            done = self._write(view.job, ending)
            end(self._jobs, view, done)

    def _decide(self, view: JobView) -> Ending | None:
        """How the batch ends; None if an output turned out to be missing, so that there is something to run after all."""
        now = round(time.time(), 3)
        job, marks = view.job, view.marks
        committed = self._jobs.store.committed_counts(job.id)
        if marks.cancelled_at is not None:
            ending = Ending(at=now, status="cancelled", shards=tuple(committed))
        elif job.is_prepared and len(view.committed) >= len(job.shards):
            if all_committed(self._jobs, job) is None:
                return None
            ending = Ending(at=now, status="completed", shards=tuple(committed), finalizing_at=view.finalizing_at(now))
        else:
            ending = Ending(at=now, status="expired", shards=tuple(committed), finalizing_at=view.finalizing_at(now))
        stands = self._jobs.store.put_ending(job.id, ending)
        if stands is None:
            raise CancelledError
        return stands

    def _write(self, job: Job, ending: Ending) -> Done:
        # The model may have left the configuration; the vectors that are there are its own all the same.
        model = self._registry.models.get(job.model) or ModelConfig(name=job.model, parameters=Parameters(model=job.model))
        completed = failed = tokens = truncated = 0
        with ExitStack() as stack:
            output = _LazyFile(stack, self._files, job, "output", ending.at, self._expire_after_s(job))
            errors = _LazyFile(stack, self._files, job, "error", ending.at, self._expire_after_s(job))
            for rows in gather(self._tables(job, ending)):
                line = answer(rows, job.id, model, ending.status)
                (errors if line.is_error else output).write(line)
                completed += not line.is_error
                failed += line.is_error
                tokens += line.tokens
                truncated += line.truncated
        counts = Counts(total=completed + failed, completed=completed, failed=failed, truncated=truncated, tokens=tokens)
        committed = self._jobs.store.committed_counts(job.id)
        return Done(
            status=ending.status,
            finished_at=time.time(),
            counts=counts,
            started_at=min((committed[shard].started_at for shard in ending.shards if shard in committed), default=None),
            outputs={file.name: file.id for file in (output, errors) if file.is_there},
            finalizing_at=ending.finalizing_at,
        )

    def _expire_after_s(self, job: Job) -> float | None:
        wanted = (job.batch or {}).get("output_expires_after_s", self._settings.files_expire_after_s)
        return float(wanted) or None

    def _tables(self, job: Job, ending: Ending) -> Iterator[pa.Table]:
        """Every row of the batch in order: of the shards that count their outputs, of the others their inputs."""
        counting = frozenset(ending.shards)
        for shard in range(len(job.shards)):
            if not self._jobs.store.exists(job.id):
                raise CancelledError
            yield from self._output(job, shard, ending) if shard in counting else self._input(job, shard)

    def _output(self, job: Job, shard: int, ending: Ending) -> Iterator[pa.Table]:
        try:
            with self._jobs.store.open_output(job.id, shard) as source, damage_told():
                for batch in pq.ParquetFile(source).iter_batches(BATCH_ROWS):
                    yield pa.Table.from_batches([batch])
        except FileNotFoundError:
            # It was there when the end was decided, so it was damaged. Of a cancelled or expired batch it is not run again.
            if ending.status == "completed":
                raise self._run_again(job, shard) from None
            yield from self._input(job, shard)
        except pa.ArrowInvalid:
            self._jobs.store.remove_output(job.id, shard)
            raise self._run_again(job, shard) from None

    def _run_again(self, job: Job, shard: int) -> Unavailable:
        logger.error("damaged output found", job=job.id, shard=shard)
        try:
            self._jobs.index.uncommitted(job.id, [shard])
        except RedisError:
            pass  # it learns so from storage
        return Unavailable("a part of the outputs is damaged in storage")

    def _input(self, job: Job, shard: int) -> Iterator[pa.Table]:
        try:
            with self._jobs.store.open_input(job.id, shard) as source, damage_told():
                for batch in pq.ParquetFile(source).iter_batches(BATCH_ROWS):
                    yield pa.Table.from_batches([batch])
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            logger.error("input not readable", job=job.id, shard=shard, error=type(error).__name__)


@dataclass(slots=True)
class _LazyFile:
    """One of a batch's files: there if it has a line. One that an earlier try made already is left as it is."""

    stack: ExitStack
    files: FileStore
    job: Job
    name: str  # output or error
    made_at: float
    expire_after_s: float | None
    is_there: bool = False
    _upload: FileUpload | None = None

    @property
    def id(self) -> str:
        """Follows from the batch and when it ended."""
        return derived_file_id(self.made_at, f"{self.job.id}/{self.name}")

    def write(self, line: Line) -> None:
        """Append a line. Raises StorageAway."""
        if not self.is_there:
            self._open()
        if self._upload is not None:
            self._upload.write(line.content)

    def _open(self) -> None:
        self.is_there = True
        try:
            self.files.get(self.id, self.job.owner)
        except NotFound:
            creation = self.files.create(
                owner=self.job.owner,
                purpose=OUTPUT_PURPOSE,
                filename=f"{self.job.id}_{self.name}.jsonl",
                expires_after_s=self.expire_after_s,
                file_id=self.id,
            )
            self._upload = self.stack.enter_context(creation)
