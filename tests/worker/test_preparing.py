"""A source becomes input shards, or its job fails and says why; nothing that comes between changes the shards."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from shared import records
from shared.errors import StorageAway
from shared.files import FileStore, content_name
from shared.jobs.index import JobIndex
from shared.jobs.job import PREPARE, Done, Job, Source, new_job_id
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.shared.intake.support import WRITERS, pack
from worker.bulk import ShardRunner
from worker.preparing import Preparer

ROWS = [{"id": f"doc-{n}", "text": f"text number {n}"} for n in range(300)]


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


@pytest.fixture
def files(storage: DirectoryStorage) -> FileStore:
    return FileStore(storage)


@pytest.fixture
def prepare(jobs: Jobs, files: FileStore, tmp_path: Path) -> Callable[..., None]:
    settings = Settings(data_dir=tmp_path, max_attempts=2, max_upload_bytes=2**20, input_roots=(str(tmp_path / "corpora"),))
    (tmp_path / "corpora").mkdir()
    preparer = Preparer(jobs, files, settings, "w1")

    def run(job: Job, is_stopped: Callable[[], bool] = lambda: False) -> None:
        preparer(jobs.from_storage(job.id), is_stopped)

    return run


def submit(jobs: Jobs, source: Source, **fields: Any) -> Job:
    job = Job(
        id=new_job_id(), owner="o", model="m", created_at=time.time(), shards=(), source=source, is_prepared=False, **fields
    )
    return jobs.submit(job)


def from_file(jobs: Jobs, files: FileStore, content: bytes, **source: Any) -> Job:
    with files.create(owner="o", filename="corpus", purpose="batch") as upload:
        upload.write(content)
    source = {"format": None, "shard_tokens": 500.0} | source
    return submit(jobs, Source(url=content_name(upload.file.id), file_id=upload.file.id, **source))


def from_url(jobs: Jobs, path: Path, **source: Any) -> Job:
    return submit(jobs, Source(url=str(path), **({"format": "text", "shard_tokens": 500.0} | source)))


def input_of(jobs: Jobs, job: Job) -> list[dict[str, Any]]:
    found = []
    for shard, rows in enumerate(jobs.store.get(job.id).shards):
        with jobs.store.open_input(job.id, shard) as source:
            found.append(records.read_table(source).to_pylist())
        assert len(found[-1]) == rows
    return [row for rows in found for row in rows]


def done_of(jobs: Jobs, job: Job) -> Done:
    done = jobs.store.done(job.id)
    assert done is not None
    return done


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_file_of_every_format_is_cut_into_shards(
    jobs: Jobs, files: FileStore, prepare: Callable[..., None], name: str, compression: str | None
) -> None:
    job = from_file(jobs, files, pack(WRITERS[name](ROWS), compression), format=name)
    prepare(job)
    prepared = jobs.store.get(job.id)
    assert prepared.is_prepared
    assert len(prepared.shards) > 3
    assert [row["text"] for row in input_of(jobs, job)] == [row["text"] for row in ROWS]
    assert [row["index"] for row in input_of(jobs, job)] == list(range(300))
    assert jobs.store.crashes(job.id, PREPARE) == {}
    assert jobs.from_storage(job.id).status == "queued"


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize("name", ["ndjson", "parquet"])
def test_a_format_that_is_not_named_is_told_from_the_first_bytes(
    jobs: Jobs, files: FileStore, prepare: Callable[..., None], name: str, compression: str | None
) -> None:
    job = from_file(jobs, files, pack(WRITERS[name](ROWS), compression))
    prepare(job)
    assert len(input_of(jobs, job)) == 300


def test_columns_and_duplicate_ids_are_as_the_job_wants_them(jobs: Jobs, files: FileStore, prepare: Callable[..., None]) -> None:
    csv = b"key;body;x\n1;a;m\n1;b;n\n"
    source: dict[str, Any] = {"format": "csv", "columns": {"text": "body", "id": "key"}, "metadata_columns": ("x",)}
    job = from_file(jobs, files, csv, **source)
    prepare(job)
    first, second = input_of(jobs, job)
    assert (first["id"], first["text"], first["metadata"]) == ("1", "a", '{"x":"m"}')
    assert orjson.loads(second["error"])["message"] == "line 2 has the same id"
    kept = submit(jobs, job.source, on_duplicate="keep")  # type: ignore[arg-type]
    prepare(kept)
    assert [row["text"] for row in input_of(jobs, kept)] == ["a", "b"]


UNREADABLE: list[tuple[str, bytes, dict[str, Any], str, int | None]] = [
    ("truncated gzip", gzip.compress(b"a\n" * 9999)[:-5], {"format": "text"}, "incomplete_body", None),
    ("not gzip", b"a\n", {"format": "text", "compression": "gzip"}, "invalid_compression", None),
    ("not Parquet", b"a\n", {"format": "parquet"}, "invalid_parquet", None),
    ("a wrong column", b"a,b\n1,2\n", {"format": "csv"}, "unknown_column", None),
    ("a header that is none", b'text,"x"y\n1,2\n', {"format": "csv", "delimiter": ","}, "invalid_csv", 1),
    ("nothing", b"", {"format": "ndjson"}, "empty_file", None),
    ("blank lines alone", b"\n\n", {"format": "text"}, "empty_file", None),
    ("of a kind nobody knows", b"some words", {}, "unknown_format", None),
    ("a bomb", gzip.compress(b"a\n" * 2**20), {"format": "text"}, "request_too_large", None),
    ("too large", b"a\n" * 2**20, {"format": "text"}, "request_too_large", None),
]


@pytest.mark.parametrize(("content", "source", "code", "line"), [pytest.param(*rest, id=name) for name, *rest in UNREADABLE])
def test_a_source_that_cannot_be_read_as_a_whole_fails_its_job(
    jobs: Jobs,
    files: FileStore,
    prepare: Callable[..., None],
    storage: DirectoryStorage,
    content: bytes,
    source: dict[str, Any],
    code: str,
    line: int | None,
) -> None:
    job = from_file(jobs, files, content, **source)
    prepare(job)
    done = done_of(jobs, job)
    assert (done.status, done.errors[0]["code"], done.errors[0]["line"]) == ("failed", code, line)
    assert done.reason == done.errors[0]["message"]
    assert storage.list(f"jobs/{job.id}/input") == []
    assert storage.list(f"jobs/{job.id}/attempts") == []


def test_a_file_that_was_deleted_fails_the_job(jobs: Jobs, files: FileStore, prepare: Callable[..., None]) -> None:
    job = from_file(jobs, files, b"a\n", format="text")
    assert job.source is not None
    files.delete(files.get(job.source.file_id or "", "o"))
    prepare(job)
    assert done_of(jobs, job).errors[0]["code"] == "not_found"


def test_a_url_is_read_where_it_is_allowed(jobs: Jobs, prepare: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "corpora" / "a.txt"
    path.write_bytes(b"one\ntwo\n")
    (tmp_path / "corpora" / "link.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_bytes(b"secret\n")
    job = from_url(jobs, path)
    prepare(job)
    assert [row["text"] for row in input_of(jobs, job)] == ["one", "two"]
    for other, code in ((tmp_path / "secret", "invalid_value"), (tmp_path / "corpora/link.txt", "invalid_value")):
        refused = from_url(jobs, other)
        prepare(refused)
        assert done_of(jobs, refused).errors[0]["code"] == code
    missing = from_url(jobs, tmp_path / "corpora" / "missing")
    prepare(missing)
    assert done_of(jobs, missing).errors[0]["code"] == "not_found"


def test_a_source_that_changes_between_two_tries_is_not_mixed(jobs: Jobs, prepare: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "corpora" / "a.txt"
    path.write_bytes(b"one\n" * 5000)
    job = from_url(jobs, path)
    stops = iter([False] * 3 + [True])
    with pytest.raises(CancelledError):
        prepare(job, lambda: next(stops))
    path.write_bytes(b"another\n")
    prepare(job)
    assert done_of(jobs, job).errors[0]["code"] == "source_changed"


def test_a_try_that_stops_in_the_middle_is_followed_by_one_that_writes_the_same_shards(
    jobs: Jobs, files: FileStore, prepare: Callable[..., None], storage: DirectoryStorage
) -> None:
    job = from_file(jobs, files, WRITERS["ndjson"](ROWS), format="ndjson")
    looks = iter(range(100))
    with pytest.raises(CancelledError):
        prepare(job, lambda: next(looks) >= 5)
    assert len(storage.list(f"jobs/{job.id}/input")) > 1
    assert not jobs.store.get(job.id).is_prepared
    assert jobs.store.crashes(job.id, PREPARE) == {}
    prepare(job)
    prepare(job)  # another worker that was at it too
    assert [row["text"] for row in input_of(jobs, job)] == [row["text"] for row in ROWS]
    assert len(storage.list(f"jobs/{job.id}/input")) == len(jobs.store.get(job.id).shards)


def test_storage_that_is_away_is_no_fault_of_the_source(
    jobs: Jobs, files: FileStore, prepare: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = from_file(jobs, files, WRITERS["ndjson"](ROWS), format="ndjson")

    def full(*_: Any) -> None:
        raise StorageAway("storage is full")

    with monkeypatch.context() as patched:
        patched.setattr(jobs.store, "put_input", full)
        with pytest.raises(StorageAway):
            prepare(job)
    assert jobs.store.crashes(job.id, PREPARE) == {}
    prepare(job)
    assert len(input_of(jobs, job)) == 300


def test_a_source_that_ends_the_worker_again_and_again_fails_its_job(
    jobs: Jobs, files: FileStore, prepare: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = from_file(jobs, files, WRITERS["ndjson"](ROWS), format="ndjson")

    def die(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(jobs.store, "put_input", die)
        for _ in range(2):
            with pytest.raises(MemoryError):
                prepare(job)
    prepare(job)
    assert done_of(jobs, job).errors[0]["code"] == "input_crashes_worker"


def test_nothing_of_a_job_that_is_deleted_meanwhile_reappears(
    jobs: Jobs, files: FileStore, prepare: Callable[..., None], storage: DirectoryStorage
) -> None:
    for content in (WRITERS["ndjson"](ROWS), b"x\n" * 1000 + b"\n", b""):
        job = from_file(jobs, files, content, format="ndjson" if content.startswith(b"{") else "parquet")

        def delete(job: Job = job) -> bool:
            if jobs.store.exists(job.id):
                jobs.delete(jobs.from_storage(job.id))
            return False

        prepare(job, delete)
        assert storage.list(f"jobs/{job.id}") in ([], ["done.json", "job.json"])  # the latter: nothing looked before it failed


def test_the_runner_takes_the_step_and_the_job_goes_on(jobs: Jobs, files: FileStore, tmp_path: Path) -> None:
    job = from_file(jobs, files, WRITERS["ndjson"](ROWS), format="ndjson")
    settings = Settings(data_dir=tmp_path)
    steps = {PREPARE: Preparer(jobs, files, settings, "w1")}
    runner = ShardRunner(jobs, None, None, settings, "w1", steps)  # type: ignore[arg-type]
    assert jobs.view(job.id).status == "validating"
    runner.run(job.id, PREPARE)
    view = jobs.view(job.id)
    assert (view.status, view.counts.total) == ("queued", 300)
    assert jobs.index.in_flight("m") == set()
