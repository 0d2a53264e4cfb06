"""Files in storage: whole or not there, their owner's, listed by age, and gone when their time has come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import NotFound, StorageAway
from shared.files import UNFINISHED_AFTER_S, FileStore, StoredFile, derived_file_id
from shared.storage import DirectoryStorage, Storage


@pytest.fixture
def files(storage: Storage) -> FileStore:
    return FileStore(storage)


def make(files: FileStore, content: bytes = b"x", **fields: Any) -> StoredFile:
    with files.create(**{"owner": "o", "purpose": "batch", "filename": "f"} | fields) as upload:
        upload.write(content)
    return upload.file


def names(storage: Storage) -> list[str]:
    """Everything there is under any name of files."""

    def under(prefix: str) -> Iterator[str]:
        children = storage.list(prefix)
        for child in children:
            yield from under(f"{prefix}/{child}")
        if not children and storage.exists(prefix) and prefix not in roots:
            yield prefix

    roots = ("files", "files-of", "files-expiring", "files-keys", "files-unfinished")
    return [
        name for root in roots for name in under(root) if name.count("/") > 1 or root in ("files-expiring", "files-unfinished")
    ]


def test_a_file_is_there_when_its_block_ends(files: FileStore) -> None:
    with files.create(owner="o", purpose="batch", filename="f") as upload:
        upload.write(b"ab")
        upload.write(b"c")
        assert files.list("o") == ([], False)
    file = upload.file
    assert (file.bytes, file.filename, file.purpose, file.expires_at) == (3, "f", "batch", None)
    assert files.get(file.id, "o") == file
    with files.open(file.id) as source:
        assert source.read() == b"abc"


def test_what_a_file_is_may_become_known_while_it_is_written(files: FileStore) -> None:
    with files.create(owner="o") as upload:
        upload.write(b"x")
        upload.filename, upload.purpose, upload.expires_after_s = "late", "batch", 60
    file = files.get(upload.file.id, "o")
    assert (file.filename, file.purpose) == ("late", "batch")
    assert file.expires_at == pytest.approx(file.created_at + 60)


def test_an_upload_that_breaks_off_leaves_nothing(files: FileStore, storage: Storage) -> None:
    def break_off() -> None:
        with files.create(owner="o", purpose="batch") as upload:
            upload.write(b"x" * 100_000)
            raise RuntimeError("broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        break_off()
    assert names(storage) == []


def test_storage_that_fails_at_the_last_step_leaves_no_file(
    files: FileStore, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise StorageAway("full")

    monkeypatch.setattr(storage, "create", full)
    with pytest.raises(StorageAway):
        make(files, expires_after_s=60)
    assert names(storage) == []


def test_ids_are_unguessable_and_differ(files: FileStore) -> None:
    ids = {make(files).id for _ in range(20)}
    assert len(ids) == 20
    assert len({each[-25:] for each in ids}) == 20


@pytest.mark.parametrize("file_id", ["", "file-", "../jobs", "file-" + "0" * 36, "file-" + "g" * 36, "file-" + "0" * 35 + "\n"])
def test_what_is_no_file_is_not_found(files: FileStore, file_id: str) -> None:
    with pytest.raises(NotFound):
        files.get(file_id, "o")
    with pytest.raises(NotFound):
        files.open(file_id or "x")


def test_another_owners_file_is_not_found(files: FileStore) -> None:
    file = make(files)
    with pytest.raises(NotFound):
        files.get(file.id, "p")
    assert files.list("p") == ([], False)


def test_lists_go_by_age_and_by_page(files: FileStore) -> None:
    made = [make(files, purpose="batch" if number % 2 else "batch_output") for number in range(6)]
    ordered = sorted(made, key=lambda file: file.id)
    assert files.list("o", order="asc") == (ordered, False)
    assert files.list("o") == (ordered[::-1], False)
    assert files.list("o", limit=2, order="asc") == (ordered[:2], True)
    assert files.list("o", limit=2, after=ordered[1].id, order="asc") == (ordered[2:4], True)
    assert files.list("o", limit=6) == (ordered[::-1], False)
    batch = [file for file in ordered if file.purpose == "batch"]
    assert files.list("o", purpose="batch", limit=2, order="asc") == (batch[:2], True)
    assert files.list("o", purpose="batch", after=batch[1].id, order="asc") == (batch[2:], False)


def test_a_page_goes_on_behind_a_file_that_was_deleted(files: FileStore) -> None:
    first, second, third = sorted((make(files) for _ in range(3)), key=lambda file: file.id)
    files.delete(second)
    assert files.list("o", after=second.id, order="asc") == ([third], False)
    assert files.list("o", after=second.id) == ([first], False)


def test_a_deleted_file_leaves_nothing(files: FileStore, storage: Storage) -> None:
    file = make(files, expires_after_s=60, idempotency_key="k")
    files.delete(file)
    files.delete(file)
    assert names(storage) == []
    with pytest.raises(NotFound):
        files.get(file.id, "o")


def test_a_local_reader_reads_to_the_end_of_a_file_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    files = FileStore(DirectoryStorage(tmp_path))
    file = make(files, b"abc")
    with files.open(file.id) as source:
        files.delete(file)
        assert source.read() == b"abc"


def test_expired_files_are_not_found_and_then_removed(
    files: FileStore, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, goes = make(files), make(files, expires_after_s=60)
    later = time.time() + 61
    assert list(files.expired(time.time())) == []
    assert list(files.expired(later)) == [goes]
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(NotFound):
        files.get(goes.id, "o")
    assert files.list("o") == ([stays], False)
    assert files.sweep(later) == 1
    assert not any(goes.id in name for name in names(storage))
    assert files.list("o") == ([stays], False)
    assert files.sweep(later) == 0


def test_a_sweep_leaves_for_the_next_what_takes_too_long(files: FileStore) -> None:
    for _ in range(3):
        make(files, expires_after_s=60)
    later = time.time() + 61
    assert [files.sweep(later, budget_s=0) for _ in range(4)] == [1, 1, 1, 0]


def test_the_sweep_removes_what_a_dead_process_left_and_only_when_it_is_old(files: FileStore, storage: Storage) -> None:
    whole, broken = make(files), make(files)
    storage.delete(f"files/{broken.id}/file.json")
    for each in (whole, broken):
        storage.write(f"files-unfinished/{each.id}", b"o")
    now = time.time()
    files.sweep(now)
    assert storage.exists(f"files/{broken.id}/content")
    files.sweep(now + UNFINISHED_AFTER_S + 2)
    assert not any(broken.id in name for name in names(storage))
    assert files.list("o") == ([whole], False)
    assert storage.list("files-unfinished") == []


def test_a_second_try_of_a_derived_file_changes_nothing(files: FileStore, storage: Storage) -> None:
    file_id = derived_file_id(1_700_000_000.123, "batch/output")
    assert file_id == derived_file_id(1_700_000_000.123, "batch/output")
    assert file_id != derived_file_id(1_700_000_000.123, "batch/error")
    first = make(files, b"same", file_id=file_id)
    there = names(storage)
    assert make(files, b"same", file_id=file_id) == first
    assert names(storage) == there
    assert first.created_at == 1_700_000_000.123


def test_a_try_of_a_derived_file_that_fails_does_not_remove_what_another_made(files: FileStore) -> None:
    file_id = derived_file_id(1_700_000_000, "batch/output")

    def fail_beside_another() -> None:
        with files.create(owner="o", purpose="batch_output", file_id=file_id) as upload:
            upload.write(b"half")
            made.append(make(files, b"whole", file_id=file_id))
            raise RuntimeError("broke off")

    made: list[StoredFile] = []
    with pytest.raises(RuntimeError, match="broke off"):
        fail_beside_another()
    assert files.get(file_id, "o") == made[0]
    with files.open(file_id) as source:
        assert source.read() == b"whole"


def test_an_idempotency_key_makes_one_file(files: FileStore, storage: Storage) -> None:
    first = make(files, b"x", idempotency_key="k")
    there = names(storage)
    assert make(files, b"x", idempotency_key="k", expires_after_s=60) == first
    assert names(storage) == there
    assert make(files, b"x", idempotency_key="k", owner="p") != first
    assert make(files, b"x", idempotency_key="l") != first


def test_a_key_whose_process_died_before_the_manifest_still_makes_its_file(files: FileStore, storage: Storage) -> None:
    first = make(files, b"x", idempotency_key="k")
    storage.delete(f"files/{first.id}/file.json")
    assert make(files, b"x", idempotency_key="k") == first
    assert files.get(first.id, "o") == first
    storage.delete_tree(f"files/{first.id}")
    assert make(files, b"x", idempotency_key="k") != first
