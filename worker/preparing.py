"""The PREPARE step: a job's source, a file or a URL, is read and cut into input shards, exactly as an upload would be.

Two tries, one after another or at once, write the same shards: how they are cut stands in the manifest, and a source that is
another than the first try read fails the job. So a try that dies in the middle is simply followed by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from shared.errors import BadRequest, StorageAway, Unavailable
from shared.files import FileStore
from shared.intake import Options, Record, UnreadableInput
from shared.intake.cutting import DEFAULT_TOKENS_PER_S, ShardCutter
from shared.intake.duplicates import SeenIds
from shared.intake.parquet import FileBlocks
from shared.intake.reading import read
from shared.jobs.finishing import fail
from shared.jobs.job import PREPARE, Job, JobView, Source
from shared.jobs.jobs import Jobs
from shared.locations import open_location
from shared.logs import get_logger
from shared.settings import Settings

logger = get_logger(__name__)

# A try has no rows of its own: it is of the whole source.
_ALL = (0, 0)
# A stop is looked for this often among records that fill no shard.
_RECORDS_PER_LOOK = 1000


class Preparer:
    """A worker.bulk.Step. What is wrong with the source fails the job; what is wrong with the world is tried again."""

    def __init__(self, jobs: Jobs, files: FileStore, settings: Settings, worker_id: str) -> None:
        self._jobs = jobs
        self._files = files
        self._settings = settings
        self._worker_id = worker_id

    def __call__(self, view: JobView, is_stopped: Callable[[], bool]) -> None:
        """Raises CancelledError if it is stopped, StorageAway to be tried again."""
        job, store = view.job, self._jobs.store
        if sum(store.crashes(job.id, PREPARE).values()) >= self._settings.max_attempts:
            # Its tries ended with the worker: out of memory most likely, and the next one would too.
            message = f"reading the input ended the worker {self._settings.max_attempts} times"
            self._fail(view, UnreadableInput(message, code="input_crashes_worker"))
            return
        number = store.begin_attempt(job.id, PREPARE, _ALL, self._worker_id)
        try:
            self._prepare(job, is_stopped)
        except BadRequest as wrong:
            self._fail(view, wrong)
        except (CancelledError, Unavailable):
            store.withdraw_attempt(job.id, PREPARE, number)
            raise
        # Anything else is not foreseen, and counts as a crash.
        store.withdraw_attempt(job.id, PREPARE, number)

    def _prepare(self, job: Job, is_stopped: Callable[[], bool]) -> None:
        source, settings, store = job.source, self._settings, self._jobs.store
        assert source is not None, "only a job with a source is prepared"

        def look() -> None:
            if is_stopped():
                raise CancelledError

        def put(shard: int, table: pa.Table) -> None:
            look()
            store.put_input(job.id, shard, table)

        with self._open(source) as (file, version):
            if source.file_id is None and not store.pin_source(job.id, version):
                raise _changed()
            blocks = FileBlocks(file) if file.seekable() else iter(FileBlocks(file))
            options = Options(
                max_text_bytes=settings.max_text_bytes,
                max_bytes=settings.max_upload_bytes,
                text_column=source.columns.get("text"),
                id_column=source.columns.get("id"),
                metadata_columns=source.metadata_columns,
                delimiter=source.delimiter,
                job=job,
            )
            cutter = ShardCutter(
                put,
                shard_tokens=source.shard_tokens or DEFAULT_TOKENS_PER_S * settings.shard_seconds,
                max_rows=source.max_shard_rows or settings.max_shard_rows,
                seen=SeenIds() if job.kind == "job" and job.on_duplicate == "error" else None,
            )
            counted = _Counted(read(blocks, options, source.format, source.compression), look)
            cutter.cut(counted)
        if source.file_id is None:
            with self._open(source) as (_, now):
                if now != version:
                    raise _changed()
        if not cutter.shards:
            raise UnreadableInput("input: there is no text in it", code="empty_file", param="input")
        look()
        if store.put_prepared(job.id, cutter.shards, counted.lines if job.kind == "batch" else 0):
            logger.info("input prepared", job=job.id, rows=sum(cutter.shards), shards=len(cutter.shards))

    def _open(self, source: Source) -> _Opened:
        if source.file_id is not None:
            return _Opened(self._files.open(source.file_id), source.file_id)
        return _Opened(*open_location(source.url, self._settings.input_roots, "input_url"))

    def _fail(self, view: JobView, wrong: BadRequest) -> None:
        if not isinstance(wrong, UnreadableInput):
            wrong = UnreadableInput(wrong.message, code=wrong.reason, param=wrong.param)
        if fail(self._jobs, view, wrong.message, wrong.errors):
            self._jobs.store.discard_input(view.job.id)
        else:
            self._jobs.store.discard_if_deleted(view.job.id)


@dataclass(frozen=True, slots=True)
class _Opened:
    """An open source; in its block a failure to read it is StorageAway."""

    file: BinaryIO
    version: str

    def __enter__(self) -> tuple[BinaryIO, str]:
        return self.file, self.version

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.file.close()
        # An Arrow error may be an OSError too; what is wrong with the content was told by then.
        if isinstance(error, OSError):
            raise StorageAway(f"the source cannot be read: {type(error).__name__}", retry_after_s=5) from error


class _Counted:
    """Records on their way, and how many lines they came from."""

    def __init__(self, records: Iterable[Record], look: Callable[[], None]) -> None:
        self._records = records
        self._look = look
        self.lines = 0

    def __iter__(self) -> Iterator[Record]:
        last: Any = None
        for number, record in enumerate(self._records):
            if number % _RECORDS_PER_LOOK == 0:
                self._look()
            if record.line != last:
                last = record.line
                self.lines += 1
            yield record


def _changed() -> UnreadableInput:
    return UnreadableInput("input_url: the source changed while it was read", code="source_changed", param="input_url")
