"""Storage: bytes by name, in a directory or under an fsspec URL; created once or replaced whole, never half-written."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from shared.errors import StorageAway

# Names come from our own code, but ids in them from URLs: nothing that leaves the root, no hidden files.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class Storage(Protocol):
    """Names are slash-separated, relative to the root. Every method raises StorageAway if the store cannot be used."""

    def read(self, name: str) -> bytes:
        """The bytes under a name. Raises FileNotFoundError."""

    def open(self, name: str) -> BinaryIO:
        """A seekable reader. Raises FileNotFoundError."""

    def create(self, name: str, content: bytes) -> bool:
        """Write it durably if the name is free, else change nothing. True if this call created it."""

    def write(self, name: str, content: bytes) -> None:
        """Write it durably, replacing what was there whole."""

    def writer(self, name: str) -> Any:
        """Context manager giving a binary sink; the name appears, durable, when the block ends well, else nothing does."""

    def exists(self, name: str) -> bool:
        """Whether the name is there."""

    def list(self, prefix: str) -> list[str]:
        """Sorted names right under a directory (last components); [] if it is not there."""

    def modified_at(self, name: str) -> float:
        """Unix seconds of the last change. Raises FileNotFoundError."""

    def delete(self, name: str) -> None:
        """Remove a name; no error if it is not there."""

    def delete_tree(self, prefix: str) -> None:
        """Remove everything under a directory, which vanishes at once to readers of a local directory."""

    def check(self) -> None:
        """Raise StorageAway unless a small object can be written and removed."""


def open_storage(url: str) -> Storage:
    """A directory path or file:// URL gives DirectoryStorage; any other URL gives ObjectStorage on its fsspec filesystem."""
    if "://" not in url:
        return DirectoryStorage(Path(url))
    scheme, _, rest = url.partition("://")
    if scheme in ("file", "local"):
        return DirectoryStorage(Path(rest))
    return ObjectStorage(url)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a storage name: {name!r}")
    return name


@contextmanager
def _as_storage_away(doing: str) -> Iterator[None]:
    """A full or broken store becomes StorageAway; that a name is or is not there stays what it is."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "storage is full" if full else f"storage cannot be used while {doing}: {error}"
        raise StorageAway(reason, retry_after_s=5) from error


class DirectoryStorage:
    """A local directory: a temporary file beside the name, fsync, then link (create once) or rename (replace)."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._tmp = self.root / "tmp"
        with _as_storage_away("opening"):
            self._tmp.mkdir(parents=True, exist_ok=True)

    def _path(self, name: str) -> Path:
        return self.root / _checked(name)

    def read(self, name: str) -> bytes:
        with _as_storage_away("reading"):
            return self._path(name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        with _as_storage_away("reading"):
            return self._path(name).open("rb")

    def create(self, name: str, content: bytes) -> bool:
        with _as_storage_away("writing"), self._temporary() as (tmp, sink):
            sink.write(content)
            self._flush(sink)
            path = self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(tmp, path)
            except FileExistsError:
                return False
            self._sync_directory(path.parent)
            return True

    def write(self, name: str, content: bytes) -> None:
        with self.writer(name) as sink:
            sink.write(content)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        path = self._path(name)
        with _as_storage_away("writing"), self._temporary() as (tmp, sink):
            yield sink
            self._flush(sink)
            path.parent.mkdir(parents=True, exist_ok=True)
            tmp.replace(path)
            self._sync_directory(path.parent)

    def exists(self, name: str) -> bool:
        with _as_storage_away("looking"):
            return self._path(name).exists()

    def list(self, prefix: str) -> list[str]:
        with _as_storage_away("listing"):
            try:
                return sorted(os.listdir(self._path(prefix)))  # noqa: PTH208 - strings, and 10 times faster than iterdir
            except (FileNotFoundError, NotADirectoryError):
                return []

    def modified_at(self, name: str) -> float:
        with _as_storage_away("looking"):
            return self._path(name).stat().st_mtime

    def delete(self, name: str) -> None:
        with _as_storage_away("deleting"):
            self._path(name).unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        # Moved away first: what is being read or written beside us sees all of it or nothing of it.
        grave = self._tmp / uuid.uuid4().hex
        with _as_storage_away("deleting"):
            try:
                self._path(prefix).rename(grave)
            except FileNotFoundError:
                return
            shutil.rmtree(grave, ignore_errors=True)

    def check(self) -> None:
        with _as_storage_away("checking"), self._temporary() as (_, sink):
            sink.write(b"umekomi")
            sink.flush()

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        tmp = self._tmp / uuid.uuid4().hex
        self._tmp.mkdir(parents=True, exist_ok=True)
        try:
            with tmp.open("xb") as sink:
                yield tmp, sink
        finally:
            tmp.unlink(missing_ok=True)

    @staticmethod
    def _flush(sink: BinaryIO) -> None:
        sink.flush()
        os.fsync(sink.fileno())

    @staticmethod
    def _sync_directory(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class ObjectStorage:
    """An fsspec filesystem whose puts are whole (S3, GCS, …); create-once is its conditional put (If-None-Match: *)."""

    def __init__(self, url: str) -> None:
        import fsspec

        with _as_storage_away("opening"):
            # No listing cache: other processes write beside us.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._root = root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{_checked(name)}"

    def read(self, name: str) -> bytes:
        with _as_storage_away("reading"):
            content: bytes = self._fs.cat_file(self._path(name))
            return content

    def open(self, name: str) -> BinaryIO:
        with _as_storage_away("reading"):
            reader: BinaryIO = self._fs.open(self._path(name), "rb")
            return reader

    def create(self, name: str, content: bytes) -> bool:
        with _as_storage_away("writing"):
            try:
                self._fs.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            return True

    def write(self, name: str, content: bytes) -> None:
        with _as_storage_away("writing"):
            self._fs.pipe_file(self._path(name), content)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        with _as_storage_away("writing"):
            sink = self._fs.open(self._path(name), "wb")
            try:
                yield sink
            except BaseException:
                with suppress(Exception):
                    sink.discard()
                sink.closed = True
                raise
            sink.close()

    def exists(self, name: str) -> bool:
        with _as_storage_away("looking"):
            return bool(self._fs.exists(self._path(name)))

    def list(self, prefix: str) -> list[str]:
        with _as_storage_away("listing"):
            try:
                found = self._fs.ls(self._path(prefix), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({path.rstrip("/").rpartition("/")[2] for path in found} - {""})

    def modified_at(self, name: str) -> float:
        with _as_storage_away("looking"):
            return float(self._fs.modified(self._path(name)).timestamp())

    def delete(self, name: str) -> None:
        with _as_storage_away("deleting"), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def delete_tree(self, prefix: str) -> None:
        with _as_storage_away("deleting"), suppress(FileNotFoundError):
            self._fs.rm(self._path(prefix), recursive=True)

    def check(self) -> None:
        name = f"tmp/check-{uuid.uuid4().hex}"
        self.write(name, b"umekomi")
        self.delete(name)
