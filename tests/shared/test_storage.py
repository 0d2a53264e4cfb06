"""The contract of storage, on a directory and on S3; then what only one of them can get wrong."""

from __future__ import annotations

import errno
import multiprocessing
import os
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shared import records
from shared import storage as storage_module
from shared.errors import StorageAway
from shared.storage import DirectoryStorage, ObjectStorage, Storage, open_storage
from tests.support.s3 import S3, variables
from tests.support.valkey import free_port

# The contract


def test_what_is_written_is_read_and_replaced_whole(storage: Storage) -> None:
    storage.write("a/b/c.bin", b"first, and longer")
    storage.write("a/b/c.bin", b"second")

    assert storage.read("a/b/c.bin") == b"second"


def test_an_empty_object_is_one(storage: Storage) -> None:
    storage.write("unannounced/job_1", b"")

    assert storage.exists("unannounced/job_1")
    assert storage.read("unannounced/job_1") == b""


def test_a_name_is_created_once(storage: Storage) -> None:
    assert storage.create("a/b", b"first")
    assert not storage.create("a/b", b"second")

    assert storage.read("a/b") == b"first"


def test_of_many_threads_that_create_a_name_one_succeeds(storage: Storage) -> None:
    start = threading.Barrier(16)

    def create(number: int) -> bool:
        start.wait()
        return storage.create("deep/down/name", b"%d" % number * 1000)

    with ThreadPoolExecutor(16) as threads:
        created = list(threads.map(create, range(16)))

    assert sum(created) == 1
    assert storage.read("deep/down/name") == b"%d" % created.index(True) * 1000


def _create_in_another_process(url: str, number: int) -> bool:
    return open_storage(url).create("once", b"%d" % number)


def test_of_many_processes_that_create_a_name_one_succeeds(tmp_path: Path) -> None:
    url = str(tmp_path / "storage")
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        created = processes.starmap(_create_in_another_process, [(url, number) for number in range(20)], chunksize=1)

    assert sum(created) == 1
    assert open_storage(url).read("once") == b"%d" % created.index(True)


def test_what_is_not_there_is_said(storage: Storage) -> None:
    storage.write("directory/name", b"x")

    for name in ("no", "directory", "directory/no", "directory/name/below"):
        with pytest.raises(FileNotFoundError):
            storage.read(name)
        with pytest.raises(FileNotFoundError):
            storage.open(name).read()
        with pytest.raises(FileNotFoundError):
            storage.modified_at(name)
    assert not storage.exists("no")
    assert not storage.exists("directory/name/below")
    assert storage.exists("directory/name")


def test_a_directory_lists_what_lies_right_under_it(storage: Storage) -> None:
    for name in ("jobs/b/job.json", "jobs/b/input/0", "jobs/a/job.json", "jobs/a-b", "jobsmore/x", "other"):
        storage.write(name, b"x")

    assert storage.list("jobs") == ["a", "a-b", "b"]
    assert storage.list("jobs/b") == ["input", "job.json"]
    assert storage.list("nothing") == []
    assert storage.list("other") == []
    assert storage.list("job") == []


def test_a_listing_shows_what_others_did_meanwhile(storage: Storage, storage_url: str) -> None:
    other = open_storage(storage_url)
    other.write("a/1", b"")
    assert storage.list("a") == ["1"]

    other.write("a/2", b"")
    other.delete("a/1")

    assert storage.list("a") == ["2"]
    assert storage.exists("a/2")
    assert not storage.exists("a/1")


def test_a_listing_is_whole_beyond_a_thousand_names_and_so_is_their_removal(storage: Storage, storage_url: str) -> None:
    names = [f"{number:05d}" for number in range(1003)]
    if isinstance(storage, DirectoryStorage):
        (storage.root / "many").mkdir()
        for name in names:
            (storage.root / "many" / name).touch()
    else:
        from moto.s3.models import s3_backends

        bucket, _, prefix = storage_url.removeprefix("s3://").partition("/")
        for name in names:  # straight into the server's memory, where each takes no round trip
            s3_backends["123456789012"]["aws"].put_object(bucket, f"{prefix}/many/{name}", b"")

    assert storage.list("many") == names

    storage.delete_tree("many")
    assert storage.list("many") == []


def test_removing_is_quiet_about_what_is_not_there(storage: Storage) -> None:
    storage.write("a/b/c", b"x")
    storage.write("a/bc", b"x")

    storage.delete("a/b/c")
    storage.delete("a/b/c")
    storage.delete("a/bc/d")
    storage.delete_tree("a/b")
    storage.delete_tree("nothing/at/all")

    assert not storage.exists("a/b/c")
    assert storage.read("a/bc") == b"x"


def test_a_tree_goes_with_all_that_is_in_it_and_nothing_beside(storage: Storage) -> None:
    for name in ("jobs/a/job.json", "jobs/a/output/0", "jobs/ab/job.json"):
        storage.write(name, b"x")

    storage.delete_tree("jobs/a")

    assert storage.list("jobs") == ["ab"]
    assert not storage.exists("jobs/a/output/0")


def test_a_change_has_its_time(storage: Storage) -> None:
    before = time.time()
    storage.write("a", b"x")

    assert before - 2 < storage.modified_at("a") < time.time() + 2


def test_a_reader_seeks(storage: Storage) -> None:
    storage.write("a", b"0123456789" * 1000)

    with storage.open("a") as reader:
        assert reader.read(3) == b"012"
        reader.seek(-4, os.SEEK_END)
        assert reader.tell() == 9996
        assert reader.read() == b"6789"


def test_a_part_is_read_and_ends_where_the_name_ends(storage: Storage) -> None:
    storage.write("a", b"0123456789")

    assert storage.read_range("a", 0, 3) == b"012"
    assert storage.read_range("a", 7, 10) == b"789"
    assert storage.read_range("a", 8, 20) == b"89"
    assert storage.read_range("a", 10, 20) == b""
    with pytest.raises(FileNotFoundError):
        storage.read_range("b", 0, 3)


def test_parquet_is_written_to_a_sink_and_read_from_a_reader(storage: Storage) -> None:
    vectors = pa.array(list(np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)), pa.list_(pa.float32()))
    table = pa.table({"index": pa.array(range(500)), "vector": vectors})

    with storage.writer("a/table.parquet") as sink:
        records.write_table(table, sink)

    with storage.open("a/table.parquet") as reader:
        assert records.read_table(reader).equals(table)


def test_a_sink_appears_when_its_block_ends_well(storage: Storage) -> None:
    with storage.writer("a/b") as sink:
        sink.write(b"one ")
        sink.write(memoryview(b"two"))
        assert sink.tell() == 7
        assert not storage.exists("a/b")

    assert storage.read("a/b") == b"one two"


@pytest.mark.parametrize("size", [10, 20 * 2**20])
def test_a_sink_whose_block_fails_leaves_nothing_and_the_error_as_it_was(storage: Storage, size: int) -> None:
    storage.write("a/replaced", b"old")

    def break_off(name: str) -> None:
        with storage.writer(name) as sink:
            sink.write(b"x" * size)
            raise ConnectionResetError("client went away")

    for name in ("a/new", "a/replaced"):
        with pytest.raises(ConnectionResetError, match="client went away"):
            break_off(name)

    assert not storage.exists("a/new")
    assert storage.read("a/replaced") == b"old"


def test_a_check_leaves_nothing(storage: Storage) -> None:
    storage.check()

    assert storage.list("tmp") == []


@pytest.mark.parametrize(
    "name",
    ["", "/", "/etc/passwd", "..", "a/../../b", "a/..", ".hidden", "a/.hidden", "a//b", "a/", "a\x00b", "a\nb", "a\n", "ä", "a b",
     "x" * 201, "a/" + "x" * 201, "s3://other/x", "a\\b", "a*", "a?b", "[a]"],
)  # fmt: skip
def test_names_that_are_none_are_refused(storage: Storage, name: str) -> None:
    for use in (
        storage.read,
        storage.open,
        storage.exists,
        storage.list,
        storage.modified_at,
        storage.delete,
        storage.delete_tree,
    ):
        with pytest.raises(ValueError, match="not a storage name"):
            use(name)
    with pytest.raises(ValueError, match="not a storage name"):
        storage.create(name, b"")
    with pytest.raises(ValueError, match="not a storage name"), storage.writer(name):
        pass


def test_names_with_every_allowed_character_work(storage: Storage) -> None:
    name = "Az09_-/-._x/" + "x" * 200
    storage.write(name, b"x")

    assert storage.list("Az09_-/-._x") == ["x" * 200]
    assert storage.read(name) == b"x"


# A directory


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[DirectoryStorage]:
    """A file system of 256 KB of its own."""
    root = tmp_path / "small"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(root)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield DirectoryStorage(root)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_a_full_disk_is_said_and_nothing_is_left_of_the_attempt(small_disk: DirectoryStorage) -> None:
    small_disk.write("a", b"x" * 1000)

    with pytest.raises(StorageAway, match="full"):
        small_disk.create("b", b"x" * 2**20)
    with pytest.raises(StorageAway, match="full"):
        small_disk.write("a", b"x" * 2**20)
    with pytest.raises(StorageAway, match="full"), small_disk.writer("c") as sink:
        sink.writelines([b"x" * 1000] * 1000)
    with pytest.raises(StorageAway, match="full"), small_disk.writer("c") as sink:
        records.write_table(pa.table({"x": np.random.default_rng(1).normal(size=100_000)}), sink)

    assert small_disk.list("tmp") == []
    assert small_disk.read("a") == b"x" * 1000
    assert small_disk.create("b", b"room again" * 1000)
    small_disk.check()


def test_a_disk_that_fails_is_said(storage_root: DirectoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(StorageAway, match="cannot be used while writing"):
        storage_root.create("a", b"x")
    with pytest.raises(StorageAway, match="cannot be used while checking"):
        storage_root.check()


@pytest.fixture
def storage_root(tmp_path: Path) -> DirectoryStorage:
    """An empty directory storage."""
    return DirectoryStorage(tmp_path / "storage")


def test_a_root_that_is_no_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(StorageAway, match="not a directory"):
        DirectoryStorage(tmp_path / "file")


def test_a_file_and_a_directory_have_the_same_spelling_as_urls(tmp_path: Path) -> None:
    open_storage(str(tmp_path / "one")).write("a", b"1")

    assert open_storage(f"file://{tmp_path}/one").read("a") == b"1"


def test_a_url_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        open_storage("nonsense://bucket")


def test_creating_beside_a_deletion_ends_with_all_or_nothing(storage_root: DirectoryStorage) -> None:
    stop = threading.Event()

    def delete() -> None:
        while not stop.wait(0.02):
            storage_root.delete_tree("jobs/a")

    deleter = threading.Thread(target=delete)
    deleter.start()
    try:
        for number in range(40):
            storage_root.create(f"jobs/a/output/{number}", b"x")
            storage_root.write(f"jobs/a/other/{number}", b"x")
    finally:
        stop.set()
        deleter.join()


def test_what_a_killed_process_left_goes_after_a_day_and_not_before(tmp_path: Path) -> None:
    tmp = DirectoryStorage(tmp_path)._tmp
    yesterday = time.time() - storage_module.LEFTOVERS_S - 60
    (tmp / "file").touch()
    (tmp / "grave" / "input").mkdir(parents=True)
    for left in (tmp / "file", tmp / "grave"):
        os.utime(left, (yesterday, yesterday))
    (tmp / "being-written").touch()

    DirectoryStorage(tmp_path)

    assert [left.name for left in tmp.iterdir()] == ["being-written"]


# S3


def test_an_s3_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(f"http://127.0.0.1:{free_port()}").items():
        monkeypatch.setenv(name, value)
    away = ObjectStorage("s3://bucket/prefix")

    for use in (away.read, away.exists, away.list, away.delete_tree):
        with pytest.raises(StorageAway):
            use("a")
    with pytest.raises(StorageAway):
        away.open("a").read()
    with pytest.raises(StorageAway):
        away.create("a", b"")
    with pytest.raises(StorageAway), away.writer("a") as sink:
        sink.write(b"x")
    with pytest.raises(StorageAway):
        away.check()


def test_an_s3_that_is_frozen_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from shared import s3

    monkeypatch.setattr(s3, "CALL_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # takes connections and never says a word
        for name, value in variables(f"http://127.0.0.1:{frozen.getsockname()[1]}").items():
            monkeypatch.setenv(name, value)
        away = ObjectStorage("s3://bucket/prefix")

        with pytest.raises(StorageAway):
            away.read("a")
        with pytest.raises(StorageAway):
            away.create("a", b"x" * 2**20)
        with pytest.raises(StorageAway), away.writer("a") as sink:
            sink.write(b"x" * 2**20)


def test_without_credentials_s3_is_away_and_not_a_crash(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(StorageAway, match="credentials"):
        ObjectStorage(s3.url).check()


def test_a_bucket_that_is_not_there_is_said_when_it_is_written_to(s3: S3) -> None:
    nowhere = ObjectStorage("s3://no-such-bucket/prefix")

    with pytest.raises(StorageAway, match="bucket"):
        nowhere.check()
    with pytest.raises(StorageAway, match="bucket"):
        nowhere.create("a", b"")
    with pytest.raises(StorageAway, match="bucket"), nowhere.writer("a") as sink:
        sink.write(b"x")


def test_a_large_sink_that_fails_leaves_no_upload_behind(s3: S3) -> None:
    storage = ObjectStorage(f"{s3.url}/large")

    def break_off() -> None:
        with storage.writer("a") as sink:
            sink.write(b"x" * (20 * 2**20))
            assert s3.client.list_multipart_uploads(Bucket="umekomi-tests").get("Uploads")
            raise KeyError("a")

    with pytest.raises(KeyError):
        break_off()

    assert not s3.client.list_multipart_uploads(Bucket="umekomi-tests").get("Uploads")


def test_s3_is_used_from_many_threads(s3: S3) -> None:
    storage = ObjectStorage(f"{s3.url}/threads")

    def use(number: int) -> bytes:
        storage.write(f"a/{number}", b"%d" % number)
        assert storage.exists(f"a/{number}")
        return storage.read(f"a/{number}")

    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(use, range(40))) == [b"%d" % number for number in range(40)]


def test_s3_is_used_after_a_fork(s3: S3) -> None:
    storage = ObjectStorage(f"{s3.url}/fork")
    storage.write("a", b"from the parent")

    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking with threads: that is the point
        child = os.fork()
    if child == 0:
        try:
            os.write(writer, storage.read("a"))
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"from the parent"


def test_a_sweep_removes_what_was_left_unfinished_long_ago_and_nothing_else(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "storage")
    storage.write("a/b", b"stays")
    for name, age_s in (("old", 2 * 86_400), ("new", 60)):
        left = storage.root / "tmp" / name
        left.write_bytes(b"half")
        os.utime(left, (time.time() - age_s,) * 2)
    storage.sweep()
    assert storage.list("tmp") == ["new"]
    assert storage.read("a/b") == b"stays"


def test_sweeping_is_allowed_on_every_storage(storage: Storage) -> None:
    storage.write("a/b", b"stays")
    storage.sweep()
    assert storage.read("a/b") == b"stays"
