"""From the blocks of an input to its records: what it is, how it is packed, and the parser that reads it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import PurePosixPath

from shared.errors import TooLarge
from shared.intake import FORMATS, Options, Record, UnreadableInput
from shared.intake.compression import Compression, detect, unpack_detected
from shared.intake.parquet import FileBlocks

COMPRESSED_ENDINGS: dict[str, Compression] = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
COMPRESSED_MEDIA_TYPES: dict[str, Compression] = {
    "application/gzip": "gzip",
    "application/x-gzip": "gzip",
    "application/zstd": "zstd",
    "application/x-zstd": "zstd",
}
_PARQUET_MAGIC = b"PAR1"


def known_formats() -> list[str]:
    """Those that can be asked for by name."""
    return [name for name, known in FORMATS.items() if known.media_types]


def format_of_media_type(media_type: str) -> str | None:
    """The format that a content type (in lower case, without parameters) says; None if it says none."""
    return next((name for name, known in FORMATS.items() if media_type in known.media_types), None)


def format_of_name(name: str) -> tuple[str | None, Compression | None]:
    """The format and compression that a file's ending says; None where it says none."""
    path = PurePosixPath(name.lower())
    compression = COMPRESSED_ENDINGS.get(path.suffix)
    suffix = path.with_suffix("").suffix if compression is not None else path.suffix
    return next((name for name, known in FORMATS.items() if suffix in known.endings), None), compression


def read(
    blocks: Iterable[bytes], options: Options, format_name: str | None = None, compression: Compression | None = None
) -> Iterator[Record]:
    """The records of an input, unpacked if it begins as a packed one does.

    Raises, at the first record or later, UnreadableInput, TooLarge past `max_bytes` of content, and whatever the blocks raise.
    """
    if isinstance(blocks, FileBlocks) and compression is None and not _is_packed(blocks):
        _check_size(blocks.file.seek(0, io.SEEK_END), options.max_bytes)
        blocks.file.seek(0)
    else:
        blocks = _bounded(unpack_detected(blocks, compression), options.max_bytes)
    if format_name is None:
        format_name, blocks = _detect_format(blocks)
    yield from FORMATS[format_name].parse(blocks, options)


def _is_packed(blocks: FileBlocks) -> bool:
    first = blocks.file.read(4)
    blocks.file.seek(0)
    return detect(first) is not None


def _bounded(blocks: Iterable[bytes], max_bytes: int | None) -> Iterator[bytes]:
    seen_bytes = 0
    for block in blocks:
        seen_bytes += len(block)
        _check_size(seen_bytes, max_bytes)
        yield block


def _check_size(seen_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and seen_bytes > max_bytes:
        raise TooLarge(f"the input is over {max_bytes} bytes when unpacked; submit it as several jobs", param="input")


def _detect_format(blocks: Iterable[bytes]) -> tuple[str, Iterable[bytes]]:
    """Only what its beginning leaves no doubt about; raises UnreadableInput else."""
    if isinstance(blocks, FileBlocks):
        first = blocks.file.read(4096)
        blocks.file.seek(0)
    else:
        iterator = iter(blocks)
        first = next(iterator, b"")
        blocks = chain([first], iterator)
    if first.startswith(_PARQUET_MAGIC):
        return "parquet", blocks
    if first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return "ndjson", blocks
    known = ", ".join(known_formats())
    raise UnreadableInput(
        f"format: it cannot be told from the input; say which of {known}", code="unknown_format", param="format"
    )
