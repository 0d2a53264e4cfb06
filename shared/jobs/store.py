"""JobStore: the only reader and writer of jobs in storage, where the truth about them lies.

jobs/JOB/job.json               the manifest, written last: a directory without it is an upload that broke off
jobs/JOB/input/00000.parquet    immutable rows
jobs/JOB/attempts/00000-K.json  one per try of a shard, written before the model runs
jobs/JOB/output/00000.parquet   created once
jobs/JOB/cancelled.json  paused.json  done.json
idempotency/OWNER/KEY.json      the manifest that this key made
unannounced/JOB                 submitted, and not yet in Redis
"""

from __future__ import annotations

import hashlib
import time
from typing import BinaryIO

import orjson
import pyarrow as pa

from shared import records
from shared.errors import NotFound
from shared.jobs.job import Done, Job, Marks
from shared.logs import get_logger
from shared.records import ShardCounts
from shared.storage import Storage

logger = get_logger(__name__)


def _shard_name(shard: int) -> str:
    return f"{shard:05d}.parquet"


class JobStore:
    """Jobs in storage. Methods raise StorageAway if it cannot be used."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    # Submission

    def put_input(self, job_id: str, shard: int, table: pa.Table) -> None:
        """Write one input shard; the job is not there before `put_job`."""
        self.storage.write(f"jobs/{job_id}/input/{_shard_name(shard)}", records.write_table(table))

    def put_job(self, job: Job) -> Job:
        """Make the job exist. With an idempotency key that was used before, the job it made then is the one that exists.

        The key's object holds the whole manifest, so a crash between the two writes is mended by the next call or sweep.
        """
        if job.idempotency_key is not None:
            name = self._key_name(job.owner, job.idempotency_key)
            if not self.storage.create(name, job.model_dump_json().encode()):
                first = self.find_by_key(job.owner, job.idempotency_key)
                if first is not None and first.id != job.id:
                    return first
                self.storage.write(name, job.model_dump_json().encode())
        self._manifest(job)
        return job

    def find_by_key(self, owner: str, idempotency_key: str) -> Job | None:
        """The job that this key made, if it still exists."""
        name = self._key_name(owner, idempotency_key)
        try:
            job = Job.model_validate_json(self.storage.read(name))
        except (FileNotFoundError, ValueError):
            return None
        if not self.exists(job.id):
            # Either we crashed between the two writes (the input is all there), or the job was deleted since.
            if len(self.storage.list(f"jobs/{job.id}/input")) < len(job.shards) or not job.shards:
                self.storage.delete(name)
                return None
            self._manifest(job)
        return job

    def _manifest(self, job: Job) -> None:
        # First the note that Redis has yet to hear of it: a crash after the manifest loses nothing.
        self.storage.write(f"unannounced/{job.id}", b"")
        self.storage.create(f"jobs/{job.id}/job.json", job.model_dump_json().encode())

    def announced(self, job_id: str) -> None:
        """Redis knows the job."""
        self.storage.delete(f"unannounced/{job_id}")

    def unannounced(self) -> list[str]:
        """Jobs that Redis may not know."""
        return self.storage.list("unannounced")

    # Reading

    def get(self, job_id: str) -> Job:
        """The manifest. Raises NotFound."""
        try:
            return Job.model_validate_json(self.storage.read(f"jobs/{job_id}/job.json"))
        except (FileNotFoundError, ValueError):
            raise NotFound(f"no such job: {job_id}") from None

    def exists(self, job_id: str) -> bool:
        """Whether the job is there, and not deleted."""
        return self.storage.exists(f"jobs/{job_id}/job.json")

    def ids(self) -> list[str]:
        """Every directory under jobs/, broken uploads too."""
        return self.storage.list("jobs")

    def marks(self, job_id: str) -> Marks:
        """What was decided about the job."""
        names = self.storage.list(f"jobs/{job_id}")
        return Marks(
            cancelled_at=self._mark(job_id, "cancelled") if "cancelled.json" in names else None,
            paused_at=self._mark(job_id, "paused") if "paused.json" in names else None,
            done=self.done(job_id) if "done.json" in names else None,
        )

    def done(self, job_id: str) -> Done | None:
        """The end of the job, if it came."""
        try:
            return Done.model_validate_json(self.storage.read(f"jobs/{job_id}/done.json"))
        except FileNotFoundError:
            return None

    def _mark(self, job_id: str, mark: str) -> float | None:
        try:
            return float(orjson.loads(self.storage.read(f"jobs/{job_id}/{mark}.json"))["at"])
        except FileNotFoundError:
            return None

    def open_input(self, job_id: str, shard: int) -> BinaryIO:
        """Parquet of an input shard. Raises FileNotFoundError."""
        return self.storage.open(f"jobs/{job_id}/input/{_shard_name(shard)}")

    def open_output(self, job_id: str, shard: int) -> BinaryIO:
        """Parquet of a committed shard. Raises FileNotFoundError."""
        return self.storage.open(f"jobs/{job_id}/output/{_shard_name(shard)}")

    def committed(self, job_id: str) -> list[int]:
        """Committed shards, ascending."""
        names = self.storage.list(f"jobs/{job_id}/output")
        return sorted(int(name.removesuffix(".parquet")) for name in names if name.endswith(".parquet"))

    def counts(self, job_id: str, shard: int) -> ShardCounts | None:
        """The counts of a committed shard; None if it is not committed, or was and its file is damaged (then it is removed)."""
        name = f"jobs/{job_id}/output/{_shard_name(shard)}"
        try:
            with self.storage.open(name) as source:
                return records.read_counts(source)
        except FileNotFoundError:
            return None
        except pa.ArrowInvalid:
            logger.warning("damaged output removed", job=job_id, shard=shard)
            self.storage.delete(name)
            return None

    # Running

    def begin_attempt(self, job_id: str, shard: int, worker_id: str) -> int:
        """Note durably that a worker is about to run the shard; returns which try it is, from 1."""
        prefix = f"{shard:05d}-"
        tries = [name for name in self.storage.list(f"jobs/{job_id}/attempts") if name.startswith(prefix)]
        number = max((int(name[len(prefix) : -len(".json")]) for name in tries), default=0) + 1
        note = orjson.dumps({"worker": worker_id, "at": time.time()})
        while not self.storage.create(f"jobs/{job_id}/attempts/{prefix}{number}.json", note):
            number += 1
        return number

    def withdraw_attempt(self, job_id: str, shard: int, number: int) -> None:
        """The try ended without a crash and without an output (paused, stopped, storage away): it does not count."""
        self.storage.delete(f"jobs/{job_id}/attempts/{shard:05d}-{number}.json")

    def commit(self, job_id: str, shard: int, table: pa.Table, counts: ShardCounts) -> bool:
        """Create the shard's output. False if another worker was first, or the job was deleted meanwhile."""
        if not self.exists(job_id):
            return False
        return self.storage.create(f"jobs/{job_id}/output/{_shard_name(shard)}", records.write_output(table, counts))

    # Life

    def mark_cancelled(self, job_id: str) -> None:
        """Durable; the first call's time stays."""
        self.storage.create(f"jobs/{job_id}/cancelled.json", orjson.dumps({"at": time.time()}))

    def mark_paused(self, job_id: str) -> None:
        """Durable until `unmark_paused`."""
        self.storage.create(f"jobs/{job_id}/paused.json", orjson.dumps({"at": time.time()}))

    def unmark_paused(self, job_id: str) -> None:
        """The job may run again."""
        self.storage.delete(f"jobs/{job_id}/paused.json")

    def mark_done(self, job_id: str, done: Done) -> Done:
        """End the job once; returns the end that stands, which may be another's. Attempts are no longer needed."""
        if not self.storage.create(f"jobs/{job_id}/done.json", done.model_dump_json().encode()):
            done = self.done(job_id) or done
        self.storage.delete_tree(f"jobs/{job_id}/attempts")
        return done

    def delete(self, job: Job) -> None:
        """Remove everything of a job, its manifest first: from then on nobody runs, commits or shows it."""
        if job.idempotency_key is not None:
            self.storage.delete(self._key_name(job.owner, job.idempotency_key))
        self.storage.delete(f"jobs/{job.id}/job.json")
        self.discard(job.id)

    def discard(self, job_id: str) -> None:
        """Remove the directory of an upload that broke off, or of a deleted job."""
        self.storage.delete_tree(f"jobs/{job_id}")
        self.storage.delete(f"unannounced/{job_id}")

    @staticmethod
    def _key_name(owner: str, idempotency_key: str) -> str:
        return f"idempotency/{owner}/{idempotency_key}.json"


def digest_key(idempotency_key: str) -> str:
    """What is stored of a caller's Idempotency-Key: it may be long, secret or full of slashes."""
    return hashlib.sha256(idempotency_key.encode()).hexdigest()
