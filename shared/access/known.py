"""KnownKeys: the keys that count now, of the settings and of both files, which are read again when they change."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shared.access.files import UnreadableKeys, read_keys, read_list
from shared.access.keys import ApiKey, digest_of, plain_key
from shared.logs import get_logger
from shared.settings import Settings

logger = get_logger(__name__)

# Two calls of stat, at most so often, when somebody calls: no thread, and it sees what a watch on a directory misses (a
# mounted secret, a network share).
LOOK_EVERY_S = 0.5
# A file so young may change again within one tick of its clock: it is read again at the next look.
SETTLED_AFTER_S = 2.0

Stamp = tuple[int, int, int]


@dataclass(slots=True)
class _Watched:
    """One file: what it held when it was last well."""

    file: Path
    read: Callable[[Path], list[ApiKey]]
    keys: list[ApiKey] = field(default_factory=list)
    stamp: Stamp | None = None  # None: not there
    was_there: bool = False
    problem: str | None = None

    def look(self) -> bool:
        """Read it if it changed; whether its keys are others now. What is broken or gone leaves the keys as they were."""
        try:
            stat = self.file.stat()
        except OSError as error:
            self.stamp = None
            if self.was_there:
                self._complain(f"is gone ({type(error).__name__}); to take all keys away, leave it without any")
            elif not isinstance(error, FileNotFoundError):
                self.was_there = True
                self._complain(f"cannot be read: {error.strerror}")
            return False
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if stamp == self.stamp:
            return False
        self.stamp = None if time.time() - stat.st_mtime < SETTLED_AFTER_S else stamp
        try:
            keys = self.read(self.file)
        except (UnreadableKeys, FileNotFoundError) as error:
            self.was_there = True
            self._complain(str(error))
            return False
        if self.was_there and keys == self.keys and self.problem is None:
            return False
        self.was_there, self.keys, self.problem = True, keys, None
        logger.info("API keys read", file=str(self.file), keys=len(keys))
        return True

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            logger.error("file of API keys not used, the last good one stays", file=str(self.file), problem=problem)


class KnownKeys:
    """Who has a key; safe to use from many threads. Looks at the files when asked, LOOK_EVERY_S apart.

    Once a key was known, or a keys.json is there, or a file of keys could not be read, nobody gets in without a key, whatever
    becomes of the files: a slip in them never opens the server.
    """

    def __init__(self, api_keys: Iterable[str], *, keys_file: Path | None = None, list_file: Path | None = None) -> None:
        self._given = [plain_key(key) for key in api_keys]
        self._keys_file = None if keys_file is None else _Watched(keys_file, read_keys)
        self._list_file = None if list_file is None else _Watched(list_file, read_list)
        self._lock = threading.Lock()
        self._looked_at = -float("inf")
        self._is_closed = False
        self._by_digest: dict[str, ApiKey] = {}
        self._merge()
        self.look()

    @classmethod
    def of(cls, settings: Settings) -> KnownKeys:
        """The keys of these settings."""
        directory = settings.localai_config_dir
        return cls(
            (key.get_secret_value() for key in settings.api_keys),
            keys_file=settings.keys_file,
            list_file=None if directory is None else directory / "api_keys.json",
        )

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        self.look()
        return not self._is_closed

    def find(self, keys: Iterable[str]) -> ApiKey | None:
        """The entry of the first of these keys that is known."""
        self.look()
        known = self._by_digest
        for key in keys:
            digest = digest_of(key)
            # Looked up by digest: how long that takes tells something of digests, and from those no key follows.
            entry = known.get(digest)
            if entry is not None and hmac.compare_digest(entry.sha256, digest):
                return entry
        return None

    def look(self) -> None:
        """Take over what changed in the files, if the last look is long enough ago."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S or not self._lock.acquire(blocking=False):
            return
        try:
            # Every file, whatever the one before it said.
            changed = [watched.look() for watched in self._files()]
            if any(changed) or not self._is_closed:
                self._merge()
            self._looked_at = time.monotonic()
        finally:
            self._lock.release()

    def _files(self) -> list[_Watched]:
        return [watched for watched in (self._list_file, self._keys_file) if watched is not None]

    def _merge(self) -> None:
        # A key of keys.json has a role and limits of its own, also if it stands elsewhere too.
        found = [*self._given, *(key for watched in self._files() for key in watched.keys)]
        self._by_digest = {key.sha256: key for key in found}
        has_key_file = self._keys_file is not None and self._keys_file.was_there
        is_broken = any(watched.problem is not None for watched in self._files())
        self._is_closed = self._is_closed or bool(found) or has_key_file or is_broken


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches what listens on host:port."""
    host = address.rpartition(":")[0].strip("[]").lower()
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


__all__ = ["KnownKeys", "is_loopback"]
