"""JobStore: the only reader and writer of jobs in storage, where the truth about them lies.

jobs/JOB/job.json               the manifest, written last: a directory without it is an upload that broke off
jobs/JOB/input/00000.parquet    immutable rows
jobs/JOB/attempts/00000/K.json  one per try of a shard or of some of its rows, written before the model runs
jobs/JOB/parts/00000/A-B.parquet  rows [A, B) of a shard that is run in parts because running it whole kills workers
jobs/JOB/output/00000.parquet   created once
jobs/JOB/vectors/              of a job with `dedupe`: vectors by text (worker/segments.py), until its end
jobs/JOB/source.json            of a job with a source by URL: the version of it that is read
jobs/JOB/prepared.json          of a job with a source: its shards, written when all of them lie there
jobs/JOB/finalizing.json        of a batch: how it ends and with which of its shards, decided before its files are written
jobs/JOB/rounds/N.json          the N-th retry of failed rows: its shards, numbered on after those before
jobs/JOB/cancelled.json  paused.json  done.json, done-N.json after the N-th retry
jobs/JOB/webhook.json           what became of telling the webhook of this end; webhook-N.json after the N-th retry
idempotency/OWNER/KEY.json      the manifest that this key made
unannounced/JOB                 submitted, marked or deleted, and Redis may not know it yet
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import orjson
import pyarrow as pa

from shared import records
from shared.errors import NotFound
from shared.jobs.job import Delivery, Done, Ending, Job, Marks
from shared.logs import get_logger
from shared.records import ShardCounts
from shared.storage import Storage

logger = get_logger(__name__)

# Footers are read side by side: on an object store each is a round trip.
READERS = 16


def _shard_name(shard: int) -> str:
    return f"{shard:05d}.parquet"


def _done_name(rounds: int) -> str:
    return f"done-{rounds}.json" if rounds else "done.json"


def _webhook_name(rounds: int) -> str:
    return f"webhook-{rounds}.json" if rounds else "webhook.json"


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
            while not self.storage.create(name, job.model_dump_json().encode()):
                first = self.find_by_key(job.owner, job.idempotency_key)
                if first is not None and first.id != job.id:
                    return first
                if first is not None:
                    break  # a second call for the same job
        self._manifest(job)
        return job

    def find_by_key(self, owner: str, idempotency_key: str) -> Job | None:
        """The job that this key made, if it still exists."""
        name = self._key_name(owner, idempotency_key)
        try:
            job = Job.model_validate_json(self.storage.read(name))
        except FileNotFoundError:
            return None
        except ValueError:
            logger.warning("damaged idempotency key removed", name=name)
            self.storage.delete(name)
            return None
        if not self.exists(job.id):
            # Either we crashed between the two writes (the input is all there), or the job was deleted since.
            is_whole = job.source is not None or 0 < len(job.shards) <= len(self.storage.list(f"jobs/{job.id}/input"))
            if not is_whole:
                self.storage.delete(name)
                return None
            self._manifest(job)
            if not self.storage.exists(name):  # it is being deleted, the key first: it shall not come back by this
                self.discard(job.id)
                return None
        return job

    def _manifest(self, job: Job) -> None:
        # First the note that Redis has yet to hear of it: a crash after the manifest loses nothing.
        self.to_announce(job.id)
        self.storage.create(f"jobs/{job.id}/job.json", job.model_dump_json().encode())

    def to_announce(self, job_id: str) -> None:
        """Note that Redis has to hear about the job again; before the change, so that a crash after it loses nothing."""
        self.storage.write(f"unannounced/{job_id}", b"")

    def announced(self, job_id: str) -> None:
        """Redis knows how the job stands."""
        self.storage.delete(f"unannounced/{job_id}")

    def unannounced(self) -> list[str]:
        """Jobs that Redis may not know."""
        return self.storage.list("unannounced")

    def noted_at(self, job_id: str) -> float:
        """When `unannounced` got its note, unix seconds; 0 if it is gone."""
        try:
            return self.storage.modified_at(f"unannounced/{job_id}")
        except FileNotFoundError:
            return 0.0

    def last_written_at(self, job_id: str) -> float:
        """When the last input shard was written, unix seconds; 0 if there is none."""
        names = self.storage.list(f"jobs/{job_id}/input")
        try:
            return self.storage.modified_at(f"jobs/{job_id}/input/{names[-1]}") if names else 0.0
        except FileNotFoundError:
            return 0.0

    # Reading

    def get(self, job_id: str) -> Job:
        """The manifest, and what was decided about its shards since. Raises NotFound."""
        try:
            job = Job.model_validate_json(self.storage.read(f"jobs/{job_id}/job.json"))
        except (FileNotFoundError, ValueError):
            raise NotFound(f"no such job: {job_id}") from None
        if job.source is not None:
            job = job.model_copy(update=self._prepared(job_id))
        for number, _ in enumerate(self.storage.list(f"jobs/{job_id}/rounds"), 1):
            further = self._shards(f"jobs/{job_id}/rounds/{number}.json")
            if further is not None:
                job = job.model_copy(update={"shards": job.shards + further, "rounds": (*job.rounds, len(further))})
        return job

    def put_prepared(self, job_id: str, shards: Sequence[int], requests: int = 0) -> bool:
        """The source was read and lies there as these shards; once. False if it was prepared before, or deleted.

        `requests` counts the lines of a batch's file.
        """
        prepared = {"shards": list(shards), "requests": requests, "at": time.time()}
        created = self.storage.create(f"jobs/{job_id}/prepared.json", orjson.dumps(prepared))
        return created and not self._was_deleted(job_id)

    def _prepared(self, job_id: str) -> dict[str, object]:
        try:
            found = orjson.loads(self.storage.read(f"jobs/{job_id}/prepared.json"))
        except FileNotFoundError:
            return {"is_prepared": False, "shards": ()}
        requests, at = found.get("requests", 0), found.get("at")
        return {"is_prepared": True, "shards": tuple(found["shards"]), "requests": requests, "prepared_at": at}

    def put_round(self, job_id: str, number: int, shards: Sequence[int]) -> bool:
        """The failed rows to try again lie there as these further shards. False if there is such a round already."""
        created = self.storage.create(f"jobs/{job_id}/rounds/{number}.json", orjson.dumps({"shards": list(shards)}))
        return created and not self._was_deleted(job_id)

    def _shards(self, name: str) -> tuple[int, ...] | None:
        try:
            return tuple(orjson.loads(self.storage.read(name))["shards"])
        except FileNotFoundError:
            return None

    def discard_input(self, job_id: str) -> None:
        """Remove the shards of an input that turned out not to be usable."""
        self.storage.delete_tree(f"jobs/{job_id}/input")

    def pin_source(self, job_id: str, version: str) -> bool:
        """Whether the source is of the version that the first try to read it found: two versions are not mixed."""
        name = f"jobs/{job_id}/source.json"
        if self.storage.create(name, orjson.dumps({"version": version})):
            return True
        return bool(orjson.loads(self.storage.read(name))["version"] == version)

    def exists(self, job_id: str) -> bool:
        """Whether the job is there, and not deleted."""
        return self.storage.exists(f"jobs/{job_id}/job.json")

    def ids(self) -> list[str]:
        """Every directory under jobs/, broken uploads too."""
        return self.storage.list("jobs")

    def marks(self, job_id: str) -> Marks:
        """What was decided about the job."""
        names = self.storage.list(f"jobs/{job_id}")
        rounds = len(self.storage.list(f"jobs/{job_id}/rounds")) if "rounds" in names else 0
        return Marks(
            cancelled_at=self._mark(job_id, "cancelled") if "cancelled.json" in names else None,
            paused_at=self._mark(job_id, "paused") if "paused.json" in names else None,
            done=self.done(job_id, rounds) if _done_name(rounds) in names else None,
        )

    def done(self, job_id: str, rounds: int = 0) -> Done | None:
        """The end of the job after so many retries, if it came."""
        try:
            return Done.model_validate_json(self.storage.read(f"jobs/{job_id}/{_done_name(rounds)}"))
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

    def committed_counts(self, job_id: str) -> dict[int, ShardCounts]:
        """The counts of every committed shard, read from storage; damaged ones are removed."""
        shards = self.committed(job_id)
        if not shards:
            return {}
        with ThreadPoolExecutor(READERS, thread_name_prefix="footers") as pool:
            counts = list(pool.map(lambda shard: self.counts(job_id, shard), shards))
        return {shard: found for shard, found in zip(shards, counts, strict=True) if found is not None}

    def remove_output(self, job_id: str, shard: int) -> None:
        """An output turned out to be damaged: the shard is pending again."""
        self.storage.delete(f"jobs/{job_id}/output/{_shard_name(shard)}")

    # Running

    def begin_attempt(self, job_id: str, shard: int, rows: tuple[int, int], worker_id: str) -> int:
        """Note durably that a worker is about to run rows [first, last) of the shard; returns which try it is, from 1."""
        number = len(self.storage.list(self._attempts(job_id, shard))) + 1
        note = orjson.dumps({"rows": rows, "worker": worker_id, "at": time.time()})
        while not self.storage.create(f"{self._attempts(job_id, shard)}/{number}.json", note):
            number += 1
        return number

    def withdraw_attempt(self, job_id: str, shard: int, number: int) -> None:
        """The try ended without a crash (it went well, or was paused, stopped, storage away): it does not count."""
        self.storage.delete(f"{self._attempts(job_id, shard)}/{number}.json")

    def crashes(self, job_id: str, shard: int) -> dict[tuple[int, int], int]:
        """How many tries of each span of rows began and were not withdrawn."""
        found: dict[tuple[int, int], int] = {}
        for name in self.storage.list(self._attempts(job_id, shard)):
            try:
                first, last = orjson.loads(self.storage.read(f"{self._attempts(job_id, shard)}/{name}"))["rows"]
            except (FileNotFoundError, ValueError, KeyError):
                continue
            found[first, last] = found.get((first, last), 0) + 1
        return found

    @staticmethod
    def vectors_of(job_id: str) -> str:
        """Where vectors lie that a job embeds once."""
        return f"jobs/{job_id}/vectors"

    def discard_late_vectors(self, job: Job) -> None:
        """Vectors were kept for the job: if it ended or was deleted meanwhile, they go."""
        self.discard_if_deleted(job.id)
        if self.storage.exists(f"jobs/{job.id}/{_done_name(len(job.rounds))}"):
            self.storage.delete_tree(self.vectors_of(job.id))

    def put_part(self, job_id: str, shard: int, rows: tuple[int, int], table: pa.Table) -> None:
        """Keep the outcome of a span of a shard whose whole cannot be run."""
        self.storage.create(f"{self._parts(job_id, shard)}/{rows[0]}-{rows[1]}.parquet", records.write_table(table))

    def parts(self, job_id: str, shard: int) -> dict[tuple[int, int], pa.Table]:
        """The kept outcomes, by span."""
        found = {}
        for name in self.storage.list(self._parts(job_id, shard)):
            first, _, last = name.removesuffix(".parquet").partition("-")
            found[int(first), int(last)] = records.read_table(self.storage.read(f"{self._parts(job_id, shard)}/{name}"))
        return found

    @staticmethod
    def _attempts(job_id: str, shard: int) -> str:
        return f"jobs/{job_id}/attempts/{shard:05d}"

    @staticmethod
    def _parts(job_id: str, shard: int) -> str:
        return f"jobs/{job_id}/parts/{shard:05d}"

    def commit(self, job_id: str, shard: int, table: pa.Table, counts: ShardCounts) -> bool:
        """Create the shard's output. False if another worker was first, or the job was deleted meanwhile."""
        if self._was_deleted(job_id):
            return False
        created = self.storage.create(f"jobs/{job_id}/output/{_shard_name(shard)}", records.write_output(table, counts))
        return created and not self._was_deleted(job_id)

    # Life

    def mark_cancelled(self, job_id: str) -> None:
        """Durable; the first call's time stays. Raises NotFound if the job was deleted meanwhile."""
        self._create_mark(job_id, "cancelled")

    def mark_paused(self, job_id: str) -> None:
        """Durable until `unmark_paused`. Raises NotFound if the job was deleted meanwhile."""
        self._create_mark(job_id, "paused")

    def unmark_paused(self, job_id: str) -> None:
        """The job may run again."""
        self.storage.delete(f"jobs/{job_id}/paused.json")

    def _create_mark(self, job_id: str, mark: str) -> None:
        self.storage.create(f"jobs/{job_id}/{mark}.json", orjson.dumps({"at": time.time()}))
        if self._was_deleted(job_id):
            raise NotFound(f"no such job: {job_id}")

    def mark_done(self, job: Job, done: Done) -> Done:
        """End the job once; returns the end that stands, which may be another's. Attempts and parts are no longer needed."""
        rounds = len(job.rounds)
        if not self.storage.create(f"jobs/{job.id}/{_done_name(rounds)}", done.model_dump_json().encode()):
            done = self.done(job.id, rounds) or done
        self._was_deleted(job.id)
        self.storage.delete_tree(f"jobs/{job.id}/attempts")
        self.storage.delete_tree(f"jobs/{job.id}/parts")
        self.storage.delete_tree(self.vectors_of(job.id))
        return done

    def put_early_end(self, job_id: str, done: Done) -> None:
        """The end of a job that ends with its submission; before `put_job`, so that it never exists without it."""
        self.storage.create(f"jobs/{job_id}/{_done_name(0)}", done.model_dump_json().encode())

    def put_ending(self, job_id: str, ending: Ending) -> Ending | None:
        """Decide how a batch ends, once; the decision that stands, which may be another's. None if it was deleted."""
        name = f"jobs/{job_id}/finalizing.json"
        if not self.storage.create(name, ending.model_dump_json().encode()):
            ending = Ending.model_validate_json(self.storage.read(name))
        return None if self._was_deleted(job_id) else ending

    def delivery(self, job: Job) -> Delivery:
        """What became of telling the job's webhook of its last end."""
        try:
            return Delivery.model_validate_json(self.storage.read(f"jobs/{job.id}/{_webhook_name(len(job.rounds))}"))
        except FileNotFoundError:
            return Delivery()

    def put_delivery(self, job: Job, delivery: Delivery) -> bool:
        """Replace it. False if the job was deleted."""
        self.storage.write(f"jobs/{job.id}/{_webhook_name(len(job.rounds))}", delivery.model_dump_json().encode())
        return not self._was_deleted(job.id)

    def key_names(self) -> Iterator[str]:
        """Every idempotency key, as OWNER/KEY, in an order that stays."""
        for owner in self.storage.list("idempotency"):
            for name in self.storage.list(f"idempotency/{owner}"):
                yield f"{owner}/{name.removesuffix('.json')}"

    def remove_leftover_key(self, key_name: str, before: float) -> bool:
        """Remove a key made before then (unix seconds) whose job does not exist. Whether it was removed."""
        name = f"idempotency/{key_name}.json"
        try:
            if self.storage.modified_at(name) >= before:
                return False
            job_id = Job.model_validate_json(self.storage.read(name)).id
        except FileNotFoundError:
            return False
        except ValueError:
            job_id = None  # damaged: it stands for no job
        if job_id is not None and self.exists(job_id):
            return False
        self.storage.delete(name)
        return True

    def discard_if_deleted(self, job_id: str) -> None:
        """Remove what was written for a job after it was deleted."""
        self._was_deleted(job_id)

    def delete(self, job: Job) -> None:
        """Remove everything of a job, its manifest first: from then on nobody runs, commits or shows it.

        A note that Redis has to hear of it stays until `announced`.
        """
        if job.idempotency_key is not None:
            self.storage.delete(self._key_name(job.owner, job.idempotency_key))
        self.storage.delete(f"jobs/{job.id}/job.json")
        self.storage.delete_tree(f"jobs/{job.id}")

    def discard(self, job_id: str) -> None:
        """Remove the directory of an upload that broke off, or of a deleted job."""
        self.storage.delete_tree(f"jobs/{job_id}")
        self.storage.delete(f"unannounced/{job_id}")

    def _was_deleted(self, job_id: str) -> bool:
        """Whether the job went while we wrote into its directory, which is then removed again: nothing reappears.

        Not the note that Redis has to hear of the deletion.
        """
        if self.exists(job_id):
            return False
        self.storage.delete_tree(f"jobs/{job_id}")
        return True

    @staticmethod
    def _key_name(owner: str, idempotency_key: str) -> str:
        return f"idempotency/{owner}/{idempotency_key}.json"


def digest_key(idempotency_key: str) -> str:
    """What is stored of a caller's Idempotency-Key: it may be long, secret or full of slashes."""
    return hashlib.sha256(idempotency_key.encode()).hexdigest()
