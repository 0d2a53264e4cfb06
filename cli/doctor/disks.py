"""The data directory and storage: there, ours to write, with room, and creating a name only once."""

from __future__ import annotations

import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cli.doctor.finding import Finding, fail, gib, ok, warn
from shared.errors import UmekomiError
from shared.settings import Settings
from shared.storage import DirectoryStorage, Storage, open_storage

LITTLE_BYTES, VERY_LITTLE_BYTES = 5 * 2**30, 2**28
FEW_INODES = 10_000
SKEW_S = 5.0


def check_data_dir(settings: Settings) -> Iterator[Finding]:
    """What of umekomi lies on this machine."""
    directory = settings.data_dir
    yield writable("data", directory, "--data-dir (UMEKOMI_DATA_DIR)")
    yield from room("data", directory)
    keys = settings.keys_file
    with suppress(FileNotFoundError):
        if stat.S_IMODE(keys.stat().st_mode) & 0o077:
            yield warn("keys", f"{keys} can be read by others", f"chmod 600 {keys}")


def check_storage(settings: Settings) -> Iterator[Finding]:
    """Writing, reading, and creating once, which is what keeps two workers from committing the same shard."""
    url = settings.storage
    if "://" not in url and not Path(url).is_dir():
        yield writable("storage", Path(url), "--storage-url (UMEKOMI_STORAGE_URL)")
        yield from room("storage", Path(url))
        return
    try:
        storage = open_storage(url)
    except ImportError as error:
        yield fail("storage", f"the Python package {error.name} is missing", "pip install 'umekomi[s3]'")
        return
    except (ValueError, UmekomiError) as error:
        yield fail("storage", str(error), "correct --storage-url (UMEKOMI_STORAGE_URL)")
        return
    try:
        yield from try_out(storage)
    except Exception as error:
        # What botocore raises without credentials is no OSError, nor is its name anything that we could import here.
        said = str(getattr(error, "message", error)) or type(error).__name__
        yield fail("storage", said, _advice(said))
    if isinstance(storage, DirectoryStorage):
        yield from room("storage", storage.root)


def try_out(storage: Storage) -> Iterator[Finding]:
    """Under a name that nobody has, removed afterwards."""
    name = f"doctor-{uuid.uuid4().hex}"
    try:
        began = time.perf_counter()
        is_ours = storage.create(name, b"first")
        took_ms = (time.perf_counter() - began) * 1000
        is_again = storage.create(name, b"second")
        content = storage.read(name)
        skew_s = time.time() - storage.modified_at(name)
    finally:
        with suppress(Exception):
            storage.delete(name)
    if not is_ours or is_again or content != b"first":
        yield fail(
            "storage",
            "a name can be created twice: it has no conditional put (If-None-Match: *)",
            "use a store that has one (AWS S3, MinIO, Ceph, a local directory): else two workers may commit the same shard",
        )
    else:
        yield ok("storage", f"writes, reads, and creates a name only once, in {took_ms:.0f} ms")
    if abs(skew_s) > SKEW_S:
        yield warn("clock", f"storage's clock and ours differ by {abs(skew_s):.0f} s", "run chrony or another NTP client on both")


def writable(about: str, directory: Path, setting: str) -> Finding:
    """Whether files can be made there; where it is not there yet, whether it can be made."""
    above = _nearest(directory)
    if not above.is_dir():
        return fail(about, f"{above} is not a directory", f"choose another one: {setting}")
    if not os.access(above, os.W_OK | os.X_OK):
        return fail(about, f"{above} cannot be written by this user", f"chown it, or choose another one: {setting}")
    return ok(about, f"{directory} can be written" if above == directory else f"{directory} will be made")


def room(about: str, directory: Path) -> Iterator[Finding]:
    """Bytes and inodes that are free."""
    above = _nearest(directory)
    free = shutil.disk_usage(above).free
    said = f"{gib(free)} are free for {directory}"
    if free < VERY_LITTLE_BYTES:
        yield fail(about, said, "make room: jobs are refused when it is full")
    elif free < LITTLE_BYTES:
        yield warn(about, said, "make room: a million vectors of 384 numbers take 1.5 GiB")
    else:
        yield ok(about, said)
    inodes = os.statvfs(above)
    if inodes.f_files and inodes.f_favail < FEW_INODES:
        yield warn(about, f"{inodes.f_favail:,} inodes are left for {directory}", "make room: each shard is a file")


def _nearest(path: Path) -> Path:
    """Itself, or what is there above it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _advice(said: str) -> str:
    lower = said.lower()
    if "credential" in lower or "accessdenied" in lower or "forbidden" in lower or "invalidaccesskey" in lower:
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the role read, write, list and delete of the bucket"
    if "bucket" in lower:
        return "make the bucket, or correct --storage-url (UMEKOMI_STORAGE_URL); AWS_ENDPOINT_URL says where an S3 of your own is"
    return "see that it can be reached and written: --storage-url (UMEKOMI_STORAGE_URL)"
