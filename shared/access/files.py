"""The two files of API keys: keys.json, which `umekomi keys` writes, and LocalAI's api_keys.json, a list of plain keys."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from shared.access.keys import HINT_CHARACTERS, ApiKey, Limits, Role, digest_of, new_key, plain_key

# Only whoever runs the server reads who may call it.
MODE = 0o600
# Far above what anybody writes; a wrong path (a disk image, /dev/zero) shall not fill the memory.
MAX_FILE_BYTES = 16 * 2**20


class UnreadableKeys(Exception):
    """A file of keys cannot be read, or is not what it should be; never quotes it."""


def read_keys(file: Path) -> list[ApiKey]:
    """The entries of keys.json. Raises FileNotFoundError, UnreadableKeys."""
    given = _read_json(file)
    entries = given.get("keys") if isinstance(given, dict) else None
    if not isinstance(entries, list):
        raise UnreadableKeys('must be an object such as {"keys": []}')
    keys = []
    for number, entry in enumerate(entries):
        try:
            keys.append(ApiKey.model_validate(entry))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise UnreadableKeys(f"entry {number}: {where or 'it'}: {error.errors()[0]['msg']}") from None
    return keys


def read_list(file: Path) -> list[ApiKey]:
    """The keys of LocalAI's api_keys.json. Raises FileNotFoundError, UnreadableKeys."""
    given = _read_json(file)
    if not isinstance(given, list) or not all(isinstance(key, str) and key.strip() for key in given):
        raise UnreadableKeys('must be a list of strings such as ["a-key"]')
    return [plain_key(key.strip()) for key in given]


def _read_json(file: Path) -> Any:
    try:
        with file.open("rb") as source:
            content = source.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableKeys(f"cannot be read: {error.strerror or type(error).__name__}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableKeys(f"is over {MAX_FILE_BYTES} bytes")
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise UnreadableKeys("is not JSON") from None


class KeyFile:
    """keys.json as `umekomi keys` changes it: one writer at a time, replaced whole. Raises UnreadableKeys, OSError."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def entries(self) -> list[ApiKey]:
        """All entries; none if there is no file."""
        try:
            return read_keys(self.file)
        except FileNotFoundError:
            return []

    def create(self, name: str, role: Role, limits: Limits) -> tuple[ApiKey, str]:
        """A new entry, and its key, which is told this once. Raises ValueError if the name is taken."""
        key = new_key()
        entry = ApiKey(
            id=f"key_{secrets.token_hex(6)}",
            name=name,
            sha256=digest_of(key),
            role=role,
            limits=limits,
            created_at=int(time.time()),
            hint=key[-HINT_CHARACTERS:],
        )
        with self._locked():
            keys = self.entries()
            if any(other.name == name for other in keys):
                raise ValueError(f"there is a key of the name {name!r} already")
            self._write([*keys, entry])
        return entry, key

    def revoke(self, which: str) -> ApiKey:
        """Take out the entry of this id or name. Raises LookupError."""
        with self._locked():
            keys = self.entries()
            found = next((key for key in keys if key.id == which), None)
            found = found or next((key for key in keys if key.name == which), None)
            if found is None:
                raise LookupError(f"there is no key of the id or name {which!r}")
            self._write([key for key in keys if key is not found])
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A file beside it: the file itself is replaced, and a lock on what was replaced holds nobody off.
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.file.with_name(self.file.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, keys: Sequence[ApiKey]) -> None:
        entries = [key.model_dump(exclude_none=True) for key in keys]
        content = orjson.dumps({"keys": entries}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        # A link stays a link, and what it points to is replaced.
        file = self.file.resolve()
        temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE), "wb") as sink:
                sink.write(content)
                sink.flush()
                os.fsync(sink.fileno())
            with suppress(FileNotFoundError, PermissionError):  # whoever made it ours may have given it to the server's user
                before = file.stat()
                os.chown(temporary, before.st_uid, before.st_gid)
            temporary.replace(file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
