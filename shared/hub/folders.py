"""Where fetched files lie: in the hub's cache, in its own layout, or plainly in a directory of one's choice."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import orjson

from shared.hub.choosing import MODULES, has_weights
from shared.hub.hub import RepoFile

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9_][\w.\-]*(?:/[A-Za-z0-9_][\w.\-]*)*", re.ASCII)
_READ_BYTES = 2**20


class Folder(Protocol):
    """A place for the files of one repository at one commit."""

    path: Path

    def has(self, file: RepoFile) -> bool:
        """Whether the file is there, whole."""

    def part(self, file: RepoFile) -> Path:
        """Where the file grows until it is whole; its directory is there."""

    def put(self, file: RepoFile) -> None:
        """The part is whole and right: give it its name."""


class CacheFolder:
    """<cache>/models--ORG--NAME with blobs/, snapshots/COMMIT/ of links to them, and refs/REVISION, as every hub client has it.

    Of our own there is umekomi/COMMIT.json: the names and sizes of the files that a model needs, written when all were checked.
    """

    def __init__(self, cache: Path, hub_id: str, commit: str, record: str = "") -> None:
        self._repository = repository(cache, hub_id)
        self._record = self._repository / "umekomi" / f"{commit}{record}.json"
        self.path = self._repository / "snapshots" / commit

    def has(self, file: RepoFile) -> bool:
        """See Folder. What was checked once is known by its size; what another client brought is read. A blob gets its link."""
        found, blob = self.path / file.name, self._repository / "blobs" / _blob(file)
        if not found.is_file():
            # Of another commit, which had the same file; or the process was killed before it could link it.
            if not (blob.is_file() and is_right(blob, file)):
                return False
            self._link(blob, found)
            return True
        if self._checked().get(file.name) == found.stat().st_size and file.size in (None, found.stat().st_size):
            return True
        return is_right(found, file)

    def part(self, file: RepoFile) -> Path:
        """See Folder."""
        (self._repository / "blobs").mkdir(parents=True, exist_ok=True)
        return self._repository / "blobs" / f"{_blob(file)}.incomplete"

    def put(self, file: RepoFile) -> None:
        """See Folder."""
        blob, link = self._repository / "blobs" / _blob(file), self.path / file.name
        self.part(file).replace(blob)
        self._link(blob, link)

    def _link(self, blob: Path, link: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:
            shutil.copyfile(blob, link)  # a file system without links

    def finish(self, revision: str | None, names: Iterable[str]) -> None:
        """All of the names are there: say so, and what commit the revision is."""
        reference = self._repository / "refs" / (revision or "main")
        if _COMMIT.fullmatch(revision or "main") is None:
            _write(reference, self.path.name.encode())
        _write(self._record, orjson.dumps({name: (self.path / name).stat().st_size for name in names}))

    def is_whole(self) -> bool:
        """Whether all was there once and still is."""
        sizes = self._checked()
        try:
            return bool(sizes) and all((self.path / name).stat().st_size == size for name, size in sizes.items())
        except OSError:
            return False

    def _checked(self) -> dict[str, int]:
        """The record: sizes by name; empty if there is none."""
        try:
            found = orjson.loads(self._record.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def looks_whole(self) -> bool:
        """The same of what another client fetched, as far as that can be told without asking the hub."""
        names = [str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file()]
        try:
            shards = {
                shard
                for index in self.path.glob("*.index.json")
                for shard in orjson.loads(index.read_bytes())["weight_map"].values()
            }
        except (OSError, ValueError, KeyError, AttributeError):
            return False
        return ("config.json" in names or MODULES in names) and has_weights(names) and shards <= set(names)


class PlainFolder:
    """A directory with the files themselves; parts lie in a hidden folder of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, file: RepoFile) -> bool:
        """See Folder. What lies there may be anything, so it is read."""
        found = self.path / file.name
        return found.is_file() and is_right(found, file)

    def part(self, file: RepoFile) -> Path:
        """See Folder."""
        hidden = self.path / ".umekomi"
        hidden.mkdir(parents=True, exist_ok=True)
        return hidden / f"{_blob(file)}.incomplete"

    def put(self, file: RepoFile) -> None:
        """See Folder."""
        (self.path / file.name).parent.mkdir(parents=True, exist_ok=True)
        self.part(file).replace(self.path / file.name)

    def finish(self) -> None:
        """Nothing is on its way any more."""
        with suppress(OSError):
            shutil.rmtree(self.path / ".umekomi")


def repository(cache: Path, hub_id: str) -> Path:
    """The folder of a repository in the cache."""
    return cache / ("models--" + hub_id.replace("/", "--"))


def lock_file(cache: Path, hub_id: str) -> Path:
    """The file that whoever fetches the repository holds locked."""
    return cache / ".locks" / repository(cache, hub_id).name / "fetch.lock"


def known_commit(cache: Path, hub_id: str, revision: str | None) -> str | None:
    """What commit a revision was when it was fetched last; None if it never was."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if not is_revision(revision or "main"):
        return None
    try:
        commit = (repository(cache, hub_id) / "refs" / (revision or "main")).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def is_revision(text: str) -> bool:
    """Whether this can be a branch, tag or commit; it becomes part of a path."""
    return len(text) <= 200 and _REVISION.fullmatch(text) is not None and ".." not in text


def is_right(path: Path, file: RepoFile) -> bool:
    """Whether the file's content is what the hub says it is: by the SHA-256 of LFS, by git's id of a blob, or by its size."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return False
    if file.sha256 is not None:
        return _digest(path, hashlib.sha256()) == file.sha256
    if file.blob_id is not None and _COMMIT.fullmatch(file.blob_id):
        return _digest(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)) == file.blob_id
    return True


def _digest(path: Path, digest: hashlib._Hash) -> str:
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while block := source.read(_READ_BYTES):
            yield block


def _blob(file: RepoFile) -> str:
    """The blob's name: its etag, as the hub gives it."""
    found = file.sha256 or file.blob_id
    if found is not None and found.isalnum():
        return found
    return hashlib.sha256(f"{file.name} {file.size}".encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all. A cache that cannot be written is read all the same."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_bytes(content)
        part.replace(path)
