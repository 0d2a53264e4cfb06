"""What `umekomi jobs submit` sends: a file or standard input, and the headers that tell what it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click

BLOCK_BYTES = 256 * 1024
STDIN = "-"
ANYTHING = "application/octet-stream"

# A file's ending -> its content type, as the server's table of formats has them.
CONTENT_TYPES = {
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".parquet": "application/vnd.apache.parquet",
    ".json": "application/json",
}
# --format -> content type.
FORMATS = {
    name: CONTENT_TYPES[f".{ending}"]
    for name, ending in {"ndjson": "ndjson", "csv": "csv", "text": "txt", "parquet": "parquet"}.items()
}
ENCODINGS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is submitted; None as the path is standard input, which can be sent but once."""

    path: Path | None
    headers: dict[str, str]

    @property
    def name(self) -> str:
        """For a person."""
        return "standard input" if self.path is None else self.path.name

    @property
    def size_bytes(self) -> int | None:
        """None if nobody knows before its end."""
        return None if self.path is None else self.path.stat().st_size

    @property
    def is_request(self) -> bool:
        """Whether it is a whole JSON request, parameters and all."""
        return self.headers["Content-Type"] == CONTENT_TYPES[".json"]

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Its bytes, from the beginning."""
        return nullcontext(sys.stdin.buffer) if self.path is None else self.path.open("rb")


def read_corpus(file: str, format_name: str | None) -> Corpus:
    """The file, or standard input for `-`. Raises UsageError if nothing tells what is in it."""
    if file == STDIN:
        # Packed or not: the server sees it by the first bytes.
        return Corpus(None, {"Content-Type": FORMATS[format_name] if format_name else ANYTHING})
    path = Path(file)
    if not path.is_file():
        raise click.UsageError(f"{file}: there is no such file")
    suffix, headers = path.suffix.lower(), {}
    if suffix in ENCODINGS:
        suffix, headers = Path(path.stem).suffix.lower(), {"Content-Encoding": ENCODINGS[suffix]}
    if format_name is not None:
        return Corpus(path, {"Content-Type": FORMATS[format_name]} | headers)
    if suffix not in CONTENT_TYPES:
        known = ", ".join(CONTENT_TYPES)
        raise click.UsageError(f"{file}: its ending must be one of {known}, or that and .gz or .zst; or say --format")
    return Corpus(path, {"Content-Type": CONTENT_TYPES[suffix]} | headers)


def blocks(source: BinaryIO, on_sent: Callable[[int], None]) -> Iterator[bytes]:
    """The bytes as they are sent; `on_sent` hears how many so far."""
    sent = 0
    on_sent(0)
    while block := source.read(BLOCK_BYTES):
        yield block
        sent += len(block)
        on_sent(sent)
