"""Files: what callers upload for their batches, and what batches write; in storage, where the truth about them lies.

files/ID/content           the bytes
files/ID/file.json         the manifest, written last: a directory without it is an upload that broke off
files-of/OWNER/ID          empty; the ids of an owner's files sort by when they were made
files-expiring/MS.ID       empty; a file that goes at this unix millisecond
files-keys/OWNER/KEY.json  the manifest of the file that this idempotency key made
files-unfinished/ID        its owner; written before a file is begun or deleted, removed when that is done
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict

from shared.errors import NotFound, StorageAway
from shared.logs import get_logger
from shared.storage import Storage

logger = get_logger(__name__)

Order = Literal["asc", "desc"]

# Unix milliseconds in 11 hex digits (enough until the year 2527), then 25 digits that nobody guesses.
_ID = re.compile(r"file-[0-9a-f]{36}")
_TIME_DIGITS, _SECRET_DIGITS = 11, 25
# Manifests are read side by side: on an object store each is a round trip.
READERS = 16
# A file that is neither whole nor gone is given up when it was begun so long ago.
UNFINISHED_AFTER_S = 86_400.0
# Whoever sweeps deals shards in the same thread.
SWEEP_BUDGET_S = 2.0


class StoredFile(BaseModel):
    """A file's manifest, file.json: written once, after its content."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    owner: str
    filename: str  # the caller's; no path of ours is made of it
    bytes: int
    purpose: str
    created_at: float  # unix seconds, to the millisecond
    expires_at: float | None = None
    idempotency_key: str | None = None  # digest of the caller's key
    content_digest: str | None = None  # SHA-256, of a file with a key


class FileUpload:
    """A file that is being written; `file` is there once the block of `FileStore.create` ended well.

    What it is may become known only while the bytes come, in any order: until the block ends the attributes may be set.
    """

    def __init__(self, sink: BinaryIO, *, filename: str, purpose: str, expires_after_s: float | None) -> None:
        self._sink = sink
        self.bytes = 0
        self.filename = filename
        self.purpose = purpose
        self.expires_after_s = expires_after_s
        self.digest = hashlib.sha256()
        self._file: StoredFile | None = None

    def write(self, content: bytes) -> None:
        """Append. Raises StorageAway."""
        self._sink.write(content)
        self.digest.update(content)
        self.bytes += len(content)

    @property
    def file(self) -> StoredFile:
        """What was made."""
        assert self._file is not None, "the block of create() has ended"
        return self._file

    def finish(self, file: StoredFile) -> None:
        """The file is there."""
        self._file = file


def new_file_id(created_at: float) -> str:
    """Unguessable, and sorted by time."""
    return _file_id(created_at, secrets.token_hex(16))


def derived_file_id(created_at: float, secret: str) -> str:
    """The same id for the same time and secret: a second try makes the same file, not another one."""
    return _file_id(created_at, hashlib.sha256(secret.encode()).hexdigest())


def _file_id(created_at: float, digits: str) -> str:
    return f"file-{round(created_at * 1000):0{_TIME_DIGITS}x}{digits[:_SECRET_DIGITS]}"


def _created_at(file_id: str) -> float:
    return int(file_id.removeprefix("file-")[:_TIME_DIGITS], 16) / 1000


class FileStore:
    """Files in storage. Methods raise StorageAway if it cannot be used."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @contextmanager
    def create(
        self,
        *,
        owner: str,
        purpose: str = "",
        filename: str = "",
        expires_after_s: float | None = None,
        file_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Iterator[FileUpload]:
        """Write a file in the block, piece by piece; it exists when the block ends well, else nothing is left of it.

        With a `file_id` (a derived one) the file may be there already, made by another try with the same bytes: that one stays.
        With an idempotency key that made a file before, that one is the upload's file in the end, and this one is not kept.
        """
        is_new = file_id is None
        if file_id is None:
            file_id = new_file_id(time.time())
        unfinished = f"files-unfinished/{file_id}"
        self._storage.write(unfinished, owner.encode())
        file: StoredFile | None = None
        try:
            with self._storage.writer(content_name(file_id)) as sink:
                upload = FileUpload(sink, filename=filename, purpose=purpose, expires_after_s=expires_after_s)
                yield upload
            created_at = _created_at(file_id)
            file = StoredFile(
                id=file_id,
                owner=owner,
                filename=upload.filename,
                bytes=upload.bytes,
                purpose=upload.purpose,
                created_at=created_at,
                expires_at=None if upload.expires_after_s is None else created_at + upload.expires_after_s,
                idempotency_key=idempotency_key,
                content_digest=upload.digest.hexdigest() if idempotency_key is not None else None,
            )
            upload.finish(self._settle(file))
        except BaseException:
            if is_new and file is not None:
                self._give_up(file)
            elif is_new:  # else another try may be at it; the sweep looks after what nobody finishes
                self._delete_quietly(unfinished)
            raise
        if upload.file.id != file.id:
            self._give_up(file)
            return
        self._delete_quietly(unfinished)

    def _settle(self, file: StoredFile) -> StoredFile:
        """Make a file whose content is there exist; the file that its key made before, if there is one."""
        if file.expires_at is not None:
            self._storage.write(_expiring_name(file), b"")
        self._storage.write(_owned_name(file.owner, file.id), b"")
        manifest = file.model_dump_json().encode()
        if file.idempotency_key is not None:
            while not self._storage.create(_key_name(file.owner, file.idempotency_key), manifest):
                first = self.find_by_key(file.owner, file.idempotency_key)
                if first is not None:
                    return first
        if not self._storage.create(_manifest_name(file.id), manifest):
            return self._read(file.id) or file
        return file

    def find_by_key(self, owner: str, idempotency_key: str) -> StoredFile | None:
        """The file that this key made, if it still exists."""
        name = _key_name(owner, idempotency_key)
        try:
            file = StoredFile.model_validate_json(self._storage.read(name))
        except FileNotFoundError:
            return None
        if self._read(file.id) is not None and not _is_expired(file, time.time()):
            return file
        if self._storage.exists(content_name(file.id)) and not _is_expired(file, time.time()):
            # Whoever made it is between its two last writes, or died there.
            self._storage.create(_manifest_name(file.id), file.model_dump_json().encode())
            if self._storage.exists(name):  # else it is being deleted, the key first: it shall not come back by this
                return file
            self._remove(file.id, owner)
        self._storage.delete(name)
        return None

    def get(self, file_id: str, owner: str) -> StoredFile:
        """The manifest. Raises NotFound if there is none, it is another owner's, it is expired, or this is no id at all."""
        file = self._read(file_id) if _ID.fullmatch(file_id) else None
        if file is None or file.owner != owner or _is_expired(file, time.time()):
            raise NotFound("no such file", param="file_id")
        return file

    def open(self, file_id: str) -> BinaryIO:
        """A seekable reader of the content. Raises NotFound."""
        try:
            return self._storage.open(content_name(file_id))
        except (FileNotFoundError, ValueError):
            raise NotFound("no such file", param="file_id") from None

    def list(
        self, owner: str, *, after: str | None = None, limit: int = 10_000, order: Order = "desc", purpose: str | None = None
    ) -> tuple[list[StoredFile], bool]:
        """An owner's files by when they were made, those past the id `after`, and whether there are more.

        The file `after` may be gone: its id tells where it was.
        """
        ids = self._storage.list(f"files-of/{owner}")
        if order == "desc":
            ids.reverse()
        if after is not None:
            ids = [each for each in ids if (each > after if order == "asc" else each < after)]
        found: list[StoredFile] = []
        now = time.time()
        with ThreadPoolExecutor(READERS, thread_name_prefix="file-manifests") as pool:
            while ids and len(found) <= limit:
                page, ids = ids[: limit + 1], ids[limit + 1 :]
                for file in pool.map(self._read, page):
                    if file is not None and not _is_expired(file, now) and purpose in (None, file.purpose):
                        found.append(file)
        return found[:limit], len(found) > limit

    def delete(self, file: StoredFile) -> None:
        """Remove the file, its manifest first: from then on nobody sees it. Whoever reads it locally may read to its end."""
        self._storage.write(f"files-unfinished/{file.id}", file.owner.encode())
        if file.idempotency_key is not None:
            self._storage.delete(_key_name(file.owner, file.idempotency_key))
        self._remove(file.id, file.owner)
        if file.expires_at is not None:
            self._storage.delete(_expiring_name(file))

    def expired(self, now: float) -> Iterator[StoredFile]:
        """The files whose time has come; nothing else is read."""
        for name in self._storage.list("files-expiring"):
            at_ms, _, file_id = name.partition(".")
            if int(at_ms) > now * 1000:
                break
            file = self._read(file_id)
            if file is not None:
                yield file
            elif not self._storage.exists(f"files-unfinished/{file_id}"):
                self._storage.delete(f"files-expiring/{name}")

    def sweep(self, now: float, budget_s: float = SWEEP_BUDGET_S) -> int:
        """Delete expired files, and what uploads and deletions left that never came to their end; how many files went.

        What takes longer than `budget_s` is left for the next sweep.
        """
        removed = 0
        stop_at = time.monotonic() + budget_s
        for file in self.expired(now):
            self.delete(file)
            removed += 1
            logger.info("expired file removed", file=file.id, bytes=file.bytes)
            if time.monotonic() >= stop_at:
                return removed
        for file_id in self._storage.list("files-unfinished"):
            try:
                began_at = self._storage.modified_at(f"files-unfinished/{file_id}")
                owner = self._storage.read(f"files-unfinished/{file_id}").decode()
            except FileNotFoundError:
                continue
            if now - began_at <= UNFINISHED_AFTER_S:
                continue
            if self._storage.exists(_manifest_name(file_id)):
                self._storage.delete(f"files-unfinished/{file_id}")  # whole: only the note was left
                continue
            self._remove(file_id, owner)
            logger.info("broken file removed", file=file_id)
        return removed

    def _read(self, file_id: str) -> StoredFile | None:
        try:
            return StoredFile.model_validate_json(self._storage.read(_manifest_name(file_id)))
        except FileNotFoundError:
            return None
        except ValueError:
            logger.warning("damaged manifest of a file", file=file_id)
            return None

    def _remove(self, file_id: str, owner: str) -> None:
        self._storage.delete(_manifest_name(file_id))
        self._storage.delete(_owned_name(owner, file_id))
        self._storage.delete_tree(f"files/{file_id}")
        self._storage.delete(f"files-unfinished/{file_id}")

    def _give_up(self, file: StoredFile) -> None:
        try:
            # Its key may be an earlier file's; one that stands for no file is found out when it is used.
            self.delete(file.model_copy(update={"idempotency_key": None}))
        except StorageAway as error:
            # Without a manifest it is no file; the sweep removes it.
            logger.warning("broken file not removed", file=file.id, error=str(error))

    def _delete_quietly(self, note: str) -> None:
        try:
            self._storage.delete(note)
        except StorageAway as error:
            logger.warning("note of a file not removed", name=note, error=str(error))


def content_name(file_id: str) -> str:
    """Where storage has the bytes of a file: what a job's source names."""
    return f"files/{file_id}/content"


def _manifest_name(file_id: str) -> str:
    return f"files/{file_id}/file.json"


def _owned_name(owner: str, file_id: str) -> str:
    return f"files-of/{owner}/{file_id}"


def _key_name(owner: str, idempotency_key: str) -> str:
    return f"files-keys/{owner}/{idempotency_key}.json"


def _expiring_name(file: StoredFile) -> str:
    assert file.expires_at is not None, "only files that expire are noted"
    return f"files-expiring/{round(file.expires_at * 1000):013d}.{file.id}"


def _is_expired(file: StoredFile, now: float) -> bool:
    return file.expires_at is not None and file.expires_at <= now
