"""Jobs in storage, on a directory and on S3: nothing accepted is lost, nothing is committed twice, nothing deleted comes back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shared import records
from shared.errors import NotFound, StorageAway
from shared.jobs.job import Counts, Done, Job, new_job_id
from shared.jobs.store import JobStore, digest_key
from shared.records import INPUT_SCHEMA, OUTPUT_SCHEMA, ShardCounts
from shared.storage import DirectoryStorage, Storage


@pytest.fixture
def store(storage: Storage) -> JobStore:
    """Jobs in an empty storage."""
    return JobStore(storage)


def input_table(rows: int, first: int = 0) -> pa.Table:
    return pa.Table.from_pylist(
        [{"index": first + row, "line": first + row + 1, "id": f"id{row}", "text": f"text {row}"} for row in range(rows)],
        schema=INPUT_SCHEMA,
    )


def output_table(rows: int) -> pa.Table:
    return pa.Table.from_pylist(
        [{"index": row, "id": f"id{row}", "vector": [0.5, row], "tokens": 3, "truncated": False} for row in range(rows)],
        schema=OUTPUT_SCHEMA,
    )


def counts_of(rows: int, **other: Any) -> ShardCounts:
    return ShardCounts(
        **({"rows": rows, "failed": 0, "truncated": 0, "tokens": 3 * rows, "started_at": 1.0, "finished_at": 2.0} | other)
    )


def make_job(store: JobStore, *shards: int, **fields: Any) -> Job:
    job = Job(id=new_job_id(), owner="me", model="m", created_at=time.time(), shards=shards or (2, 3), **fields)
    for number, rows in enumerate(job.shards):
        store.put_input(job.id, number, input_table(rows))
    return job


# Submission


def test_a_job_is_there_once_its_manifest_is(store: JobStore) -> None:
    job = make_job(store, 2, 3, metadata={"a": "b"}, priority="high", parameters={"dimensions": 64})
    assert not store.exists(job.id)
    with pytest.raises(NotFound):
        store.get(job.id)

    assert store.put_job(job) == job

    assert store.get(job.id) == job
    assert store.unannounced() == [job.id]
    store.announced(job.id)
    assert store.unannounced() == []
    assert job.rows == 5


@pytest.mark.parametrize("name", ["nothing", "", "..", "../../etc/passwd", "a/b", "x" * 5000, "job_\x00", "jobs", "*"])
def test_ids_from_outside_find_nothing_and_break_nothing(store: JobStore, name: str) -> None:
    with pytest.raises(NotFound):
        store.get(name)


def test_a_manifest_of_a_newer_version_is_read(store: JobStore) -> None:
    job = make_job(store)
    raw = job.model_dump() | {"colour": "blue"}
    store.storage.write(f"jobs/{job.id}/job.json", __import__("orjson").dumps(raw))

    assert store.get(job.id) == job


def test_input_is_read_as_it_was_written(store: JobStore) -> None:
    job = make_job(store, 4)

    with store.open_input(job.id, 0) as source:
        assert records.read_table(source).equals(input_table(4))
    with pytest.raises(FileNotFoundError):
        store.open_input(job.id, 1).read()


def test_the_same_idempotency_key_gives_the_same_job(store: JobStore) -> None:
    key = digest_key("a key / with ../ everything " * 50)
    first, second = make_job(store, idempotency_key=key), make_job(store, idempotency_key=key)

    assert store.put_job(first) == first
    assert store.put_job(second) == first
    assert store.put_job(first) == first

    assert store.find_by_key("me", key) == first
    assert not store.exists(second.id)
    assert store.find_by_key("you", key) is None


def test_one_key_of_two_owners_makes_two_jobs(store: JobStore) -> None:
    key = digest_key("k")
    mine, theirs = make_job(store, idempotency_key=key), make_job(store, idempotency_key=key).model_copy(update={"owner": "you"})

    assert store.put_job(mine) == mine
    assert store.put_job(theirs) == theirs


def test_of_many_submissions_with_one_key_one_job_comes_to_exist(store: JobStore) -> None:
    key = digest_key("k")
    jobs = [make_job(store, 1, idempotency_key=key) for _ in range(8)]

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(store.put_job, jobs))

    assert len({job.id for job in made}) == 1
    assert [job.id for job in jobs if store.exists(job.id)] == [made[0].id]


def test_a_crash_between_key_and_manifest_is_mended_by_the_next_call(store: JobStore) -> None:
    key = digest_key("k")
    crashed, again = make_job(store, idempotency_key=key), make_job(store, idempotency_key=key)
    store.storage.create(store._key_name("me", key), crashed.model_dump_json().encode())

    assert store.put_job(again) == crashed

    assert store.exists(crashed.id)
    assert crashed.id in store.unannounced()


def test_a_key_is_free_again_after_its_job_was_deleted(store: JobStore) -> None:
    key = digest_key("k")
    first, second = make_job(store, idempotency_key=key), make_job(store, idempotency_key=key)
    store.put_job(first)

    store.delete(first)

    assert store.find_by_key("me", key) is None
    assert store.put_job(second) == second


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_key_does_not_stop_submissions(store: JobStore, left: bytes) -> None:
    key = digest_key("k")
    store.storage.write(store._key_name("me", key), left)
    job = make_job(store, idempotency_key=key)

    assert store.put_job(job) == job
    assert store.find_by_key("me", key) == job


# Running


def test_an_output_is_committed_once(store: JobStore) -> None:
    job = make_job(store)
    store.put_job(job)

    assert store.commit(job.id, 1, output_table(3), counts_of(3))
    assert not store.commit(job.id, 1, output_table(3), counts_of(3, tokens=99))

    assert store.committed(job.id) == [1]
    assert store.counts(job.id, 1) == counts_of(3)
    assert store.counts(job.id, 0) is None
    with store.open_output(job.id, 1) as source:
        assert records.read_table(source).replace_schema_metadata(None).equals(output_table(3))


def test_of_many_workers_that_commit_a_shard_one_succeeds(store: JobStore) -> None:
    job = make_job(store)
    store.put_job(job)

    with ThreadPoolExecutor(8) as threads:
        committed = list(threads.map(lambda n: store.commit(job.id, 0, output_table(2), counts_of(2, tokens=n)), range(8)))

    assert sum(committed) == 1
    assert store.counts(job.id, 0) == counts_of(2, tokens=committed.index(True))


@pytest.mark.parametrize("damage", ["empty", "cut", "footer", "no counts", "other counts"])
def test_a_damaged_output_is_removed_so_that_its_shard_is_pending_again(store: JobStore, damage: str) -> None:
    job = make_job(store)
    store.put_job(job)
    whole = records.write_output(output_table(2), counts_of(2))
    footer_at = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    damaged = {
        "empty": b"",
        "cut": whole[:-10],
        "footer": whole[: footer_at + 5] + b"\xff" * 60 + whole[footer_at + 65 :],
        "no counts": records.write_table(output_table(2)),
        "other counts": records.write_table(output_table(2).replace_schema_metadata({b"umekomi.counts": b"{}"})),
    }[damage]
    store.storage.write(f"jobs/{job.id}/output/00000.parquet", damaged)

    assert store.counts(job.id, 0) is None

    assert store.committed(job.id) == []
    assert store.commit(job.id, 0, output_table(2), counts_of(2))


def test_a_disk_that_fails_while_counts_are_read_costs_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(DirectoryStorage(tmp_path))
    job = make_job(store)
    store.put_job(job)
    store.commit(job.id, 0, output_table(2), counts_of(2))

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(records.pq, "read_schema", fail)
        with pytest.raises((OSError, StorageAway)):
            store.counts(job.id, 0)

    assert store.counts(job.id, 0) == counts_of(2)


def test_a_commit_to_a_deleted_job_leaves_nothing(store: JobStore) -> None:
    job = make_job(store)
    store.put_job(job)
    store.delete(job)

    assert not store.commit(job.id, 0, output_table(2), counts_of(2))
    assert store.ids() == []


def test_a_commit_that_comes_while_the_job_is_deleted_leaves_nothing(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(store)
    store.put_job(job)
    create = store.storage.create

    def delete_first(name: str, content: bytes) -> bool:
        store.delete(job)
        return create(name, content)

    monkeypatch.setattr(store.storage, "create", delete_first)

    assert not store.commit(job.id, 0, output_table(2), counts_of(2))
    assert store.ids() == []
    with pytest.raises(NotFound):
        store.get(job.id)


def test_a_key_read_while_its_job_is_deleted_does_not_bring_it_back(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = digest_key("k")
    job = make_job(store, idempotency_key=key)
    store.put_job(job)
    read = store.storage.read

    def delete_after(name: str) -> bytes:
        content = read(name)
        store.storage.delete(store._key_name("me", key))
        store.storage.delete(f"jobs/{job.id}/job.json")
        return content

    monkeypatch.setattr(store.storage, "read", delete_after)

    assert store.find_by_key("me", key) is None
    assert not store.exists(job.id)


# Life


def test_marks_are_told_apart_and_the_first_cancel_stands(store: JobStore) -> None:
    job = make_job(store)
    store.put_job(job)
    assert store.marks(job.id).cancelled_at is store.marks(job.id).paused_at is store.marks(job.id).done is None

    store.mark_paused(job.id)
    store.mark_cancelled(job.id)
    first = store.marks(job.id)
    store.mark_cancelled(job.id)
    store.unmark_paused(job.id)
    store.unmark_paused(job.id)

    assert first.paused_at is not None
    assert first.cancelled_at is not None
    assert store.marks(job.id).cancelled_at == first.cancelled_at
    assert store.marks(job.id).paused_at is None


def test_a_job_ends_once(store: JobStore) -> None:
    job = make_job(store)
    store.put_job(job)
    first = Done(status="completed", finished_at=9.0, counts=Counts(total=5, completed=5), started_at=1.0)
    second = Done(status="cancelled", finished_at=10.0, counts=Counts(total=5))

    assert store.mark_done(job, first) == first
    assert store.mark_done(job, second) == first
    assert store.done(job.id) == store.marks(job.id).done == first


def test_deleting_takes_everything_and_may_be_repeated(store: JobStore) -> None:
    job, other = make_job(store, idempotency_key=digest_key("k")), make_job(store)
    for one in (job, other):
        store.put_job(one)
        store.announced(one.id)
    store.commit(job.id, 0, output_table(2), counts_of(2))
    store.mark_paused(job.id)

    store.delete(job)
    store.delete(job)

    assert store.ids() == [other.id]
    assert store.storage.list("idempotency/me") == []
    assert store.unannounced() == []


def test_ids_are_unguessable_and_storage_names() -> None:
    ids = {new_job_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(job_id) == 40 and job_id.replace("_", "").isalnum() for job_id in ids)
