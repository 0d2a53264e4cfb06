"""The files of a model's directory: how they lie there, and what is in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

# A file as it lay there: name in the folder, size, time of change, inode.
Seen = tuple[str, int, int, int]


def look(directory: Path) -> Iterator[Seen]:
    """Every file but hidden ones, in an order of its own."""
    for folder, folders, files in os.walk(directory, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(folder) / name
            try:
                found = path.stat()
            except OSError:
                continue  # a link to nowhere
            yield str(path.relative_to(directory)), found.st_size, found.st_mtime_ns, found.st_ino


# A load asks several times, and 1.5 GB/s is seconds for a large model.
@lru_cache(maxsize=16)
def sha256_of(directory: Path, seen: tuple[Seen, ...]) -> tuple[tuple[str, bytes], ...]:
    """Each name with the SHA-256 of its contents; read again only if the files lie there otherwise. Raises OSError."""
    found = []
    for name, *_ in seen:
        with (directory / name).open("rb") as file:
            found.append((name, hashlib.file_digest(file, "sha256").digest()))
    return tuple(found)


def library_version(library: str) -> str | None:
    """None if it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
