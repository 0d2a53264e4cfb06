"""fetch: a model's files brought to this machine, once however many threads and processes want them at the same time."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from filelock import FileLock, Timeout

from shared.hub.choosing import MODULES, has_weights, needed, needed_code
from shared.hub.folders import CacheFolder, Folder, PlainFolder, is_revision, is_right, known_commit, lock_file
from shared.hub.hub import Hub, Listing, RepoFile
from shared.hub.progress import DownloadCancelled, DownloadFailed, Progress

# The standard library's: `umekomi models pull` shows warnings only, and those on standard error.
logger = logging.getLogger(__name__)

# How often who waits for another's download looks whether it should stop.
_LOCK_LOOK_S = 0.2
# Beside the files themselves: a full disk stops more than a download.
_SPARE_BYTES = 16 * 2**20


def _deaf(_: Progress) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """One wish: a repository at a revision."""

    hub_id: str
    revision: str | None = None
    to: Path | None = None  # a directory of its own instead of the cache
    is_fresh: bool = False  # ask the hub what the revision is now, also if all is there
    code_only: bool = False  # of a repository that lends its code to another
    on_progress: Callable[[Progress], None] = field(default=_deaf)
    is_cancelled: Callable[[], bool] = field(default=lambda: False)

    def telling(self, on_progress: Callable[[Progress], None]) -> Fetching:
        """The same, with somebody who hears how far it is."""
        return replace(self, on_progress=on_progress)

    @property
    def record(self) -> str:
        """Tells the record of the code from that of the model."""
        return "-code" if self.code_only else ""


def cached(hub: Hub, hub_id: str, revision: str | None = None) -> Path | None:
    """The folder of a model that is on this machine, whole; the hub is not asked."""
    folder = _cached(hub, Fetching(hub_id=hub_id, revision=revision))
    return folder.path if folder is not None and (folder.is_whole() or folder.looks_whole()) else None


def fetch(hub: Hub, wish: Fetching) -> Path:
    """The folder of the files, all there and checked. What is in the cache already is taken without asking the hub.

    Raises DownloadFailed with a sentence, or DownloadCancelled; what came until then is kept, and the next call goes on from it.
    """
    if wish.revision is not None and not is_revision(wish.revision):
        raise DownloadFailed(f"{wish.revision!r} is no branch, tag or commit")
    there = _cached(hub, wish) if wish.to is None else None
    if there is not None and there.is_whole() and not wish.is_fresh:
        return there.path
    if hub.is_offline:
        if there is not None and there.looks_whole():
            return there.path
        raise DownloadFailed(
            f"{wish.hub_id} is not in {hub.cache}, and offline mode (UMEKOMI_OFFLINE, HF_HUB_OFFLINE) forbids to ask for it; "
            f"`umekomi models pull {wish.hub_id}` fetches it while there is a network"
        )
    place = wish.to or hub.cache
    try:
        with _alone(hub, wish):
            # Whoever held the lock may have fetched it.
            there = _cached(hub, wish) if wish.to is None else None
            if there is not None and there.is_whole() and not wish.is_fresh:
                return there.path
            return _fetch(hub, wish, there)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadFailed(f"the disk of {place} is full; what came so far is kept", may_retry=True) from error
        raise DownloadFailed(f"{place} cannot be written: {error.strerror or error}") from error


def _cached(hub: Hub, wish: Fetching) -> CacheFolder | None:
    commit = known_commit(hub.cache, wish.hub_id, wish.revision)
    if commit is None:
        return None
    folder = CacheFolder(hub.cache, wish.hub_id, commit, wish.record)
    return folder if folder.path.is_dir() else None


def _fetch(hub: Hub, wish: Fetching, there: CacheFolder | None) -> Path:
    try:
        listing = hub.listing(wish.hub_id, wish.revision)
    except DownloadFailed as error:
        if there is None or wish.is_fresh or wish.code_only or not there.looks_whole():
            raise
        logger.warning("hub not asked, the cached model is taken", extra={"hub_id": wish.hub_id, "reason": error.message})
        return there.path
    began = time.monotonic()
    if wish.to is not None:
        plain = PlainFolder(wish.to)
        _Run(hub, wish, listing, plain).run()
        plain.finish()
        return plain.path
    folder = CacheFolder(hub.cache, wish.hub_id, listing.commit, wish.record)
    run = _Run(hub, wish, listing, folder)
    names = run.run()
    folder.finish(wish.revision, names)
    took_s = round(time.monotonic() - began, 1)
    told = {"hub_id": wish.hub_id, "commit": listing.commit, "files": len(names), "bytes": run.fetched_bytes, "seconds": took_s}
    logger.info("model fetched", extra=told)
    return folder.path


class _Run:
    """The files of one listing, one after another: the weights are nearly all of it, and come as fast as the network is."""

    def __init__(self, hub: Hub, wish: Fetching, listing: Listing, folder: Folder) -> None:
        self._hub = hub
        self._wish = wish
        self._commit = listing.commit
        self._files = {file.name: file for file in listing.files}
        self._folder = folder
        self._progress = Progress()
        self._http: httpx.Client | None = None
        self.fetched_bytes = 0

    def run(self) -> list[str]:
        """The names of all files that are needed, which are there now."""
        try:
            return self._run()
        finally:
            if self._http is not None:
                self._http.close()

    def _run(self) -> list[str]:
        paths: list[str] = []
        if self._wish.code_only:
            names = needed_code(self._files)
        else:
            if MODULES in self._files:
                self._bring(self._files[MODULES])
                paths = _module_paths(self._folder.path / MODULES)
            names = needed(self._files, paths)
            if not has_weights(names):
                raise DownloadFailed(
                    f"{self._wish.hub_id} has no weights that can be read here: neither safetensors nor pytorch_model.bin"
                )
        files = [self._files[name] for name in names]
        missing = [file for file in files if not self._folder.has(file)]
        self._check_room(missing)
        there = [file for file in files if file not in missing]
        self._progress = Progress(
            done_bytes=sum(file.size or 0 for file in there),
            total_bytes=sum(file.size or 0 for file in files),
            done_files=len(there),
            total_files=len(files),
        )
        self._wish.on_progress(self._progress)
        for file in missing:
            self._bring(file)
            size = (self._folder.path / file.name).stat().st_size
            done = replace(self._progress, done_bytes=self._progress.done_bytes + size, done_files=self._progress.done_files + 1)
            self._progress = replace(done, file=file.name, file_done_bytes=size, file_bytes=size)
            self._wish.on_progress(self._progress)
        return names

    def _bring(self, file: RepoFile) -> None:
        """One file; if it turns out wrong it is thrown away and fetched anew, once."""
        if self._folder.has(file):
            return
        part = self._folder.part(file)
        for is_last in (False, True):
            if self._http is None:
                self._http = self._hub.connect()
            self._hub.download(
                self._http,
                self._wish.hub_id,
                self._commit,
                file,
                part,
                on_bytes=lambda count: self._say(file, count),
                is_cancelled=self._wish.is_cancelled,
            )
            if is_right(part, file):
                self.fetched_bytes += part.stat().st_size
                self._folder.put(file)
                return
            part.unlink(missing_ok=True)
            logger.warning("checksum wrong", extra={"hub_id": self._wish.hub_id, "file": file.name, "tried_again": not is_last})
        raise DownloadFailed(
            f"{file.name} of {self._wish.hub_id} is not what {self._hub.endpoint} says it is: its checksum was wrong twice"
        )

    def _say(self, file: RepoFile, count: int) -> None:
        if self._wish.is_cancelled():
            raise DownloadCancelled
        if self._progress.total_files:
            done = self._progress.done_bytes + count
            self._wish.on_progress(
                replace(self._progress, file=file.name, file_done_bytes=count, file_bytes=file.size or 0, done_bytes=done)
            )

    def _check_room(self, missing: list[RepoFile]) -> None:
        left = 0
        for file in missing:
            part = self._folder.part(file)
            left += max(0, (file.size or 0) - (part.stat().st_size if part.exists() else 0))
        if not missing:
            return
        free = shutil.disk_usage(self._folder.part(missing[0]).parent).free
        if left + _SPARE_BYTES > free:
            raise DownloadFailed(
                f"{self._wish.hub_id} needs {left / 1e9:.2f} GB more, and the disk of {self._wish.to or self._hub.cache} has "
                f"{free / 1e9:.2f} GB free",
                may_retry=True,
            )


@contextmanager
def _alone(hub: Hub, wish: Fetching) -> Iterator[None]:
    """One download of a repository at a time on this machine, also among processes. Raises DownloadCancelled, OSError."""
    file = lock_file(hub.cache, wish.hub_id) if wish.to is None else wish.to / ".umekomi" / "lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    while True:
        if wish.is_cancelled():
            raise DownloadCancelled
        try:
            lock.acquire(timeout=_LOCK_LOOK_S)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def _module_paths(file: Path) -> list[str]:
    try:
        return [str(module["path"]) for module in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        return []
