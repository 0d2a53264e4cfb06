"""Segments: immutable files of vectors with the digests of their texts, which can be read alone; every row has a checksum.

    header   magic, rows, dimensions, a digest of what follows up to the records
    digests  16 bytes each, ascending
    records  in the same order: digest, tokens, truncated, vector, CRC-32 of these

The name says when it was written, its rows and its bytes, so that a listing tells all that is needed to choose among them.
"""

from __future__ import annotations

import hashlib
import re
import struct
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.storage import Storage

DIGEST_BYTES = 16
_MAGIC = b"umekomi vectors1"
_HEADER = struct.Struct("<16sII16s")
_NAME = re.compile(r"([0-9a-f]{12})-([1-9][0-9]{0,9})-([0-9]{1,12})-[0-9a-f]{16}", re.ASCII)
# Rows further apart are read by two calls: reading so much costs about as much as asking an object store once more.
_GAP_BYTES = 256 * 1024
_MAX_READ_BYTES = 8 * 2**20

Digests = np.ndarray[Any, np.dtype[np.uint8]]  # [rows, 16]
Ints = np.ndarray[Any, np.dtype[np.int64]]


class Damaged(Exception):
    """A segment is not what was written."""


def digest_of(text: str) -> bytes:
    """What stands for a text: 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def prefixes_of(digests: Digests) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The first 8 bytes of each, as a number: uint64 [rows]."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


@dataclass(frozen=True, slots=True)
class Kept:
    """Vectors and what else is known of their texts, row by row."""

    digests: Digests
    vectors: np.ndarray[Any, np.dtype[np.float32]]  # [rows, dimensions]
    tokens: np.ndarray[Any, np.dtype[np.int32]]
    truncated: np.ndarray[Any, np.dtype[np.bool_]]

    def __len__(self) -> int:
        return len(self.digests)

    def in_order(self) -> Kept:
        """By digest, ascending."""
        halves = np.ascontiguousarray(self.digests).view(">u8")
        return self.take(np.lexsort((halves[:, 1], halves[:, 0])))

    def take(self, rows: Any) -> Kept:
        """These rows, in this order."""
        return Kept(self.digests[rows], self.vectors[rows], self.tokens[rows], self.truncated[rows])


@dataclass(frozen=True, slots=True)
class Segment:
    """What a name says."""

    name: str
    written_at: float  # unix seconds; of a merged one: of its newest part
    rows: int
    size: int  # bytes


class Segments:
    """The segments under one directory. Methods raise StorageAway; those that read, also FileNotFoundError and Damaged."""

    def __init__(self, storage: Storage, directory: str) -> None:
        self._storage = storage
        self._directory = directory

    def list(self) -> list[Segment]:
        """The newest first; other names are passed over."""
        found = [_parse(name) for name in reversed(self._storage.list(self._directory))]
        return [segment for segment in found if segment is not None]

    def write(self, kept: Kept, written_at: float | None = None) -> Segment:
        """Durably; the rows are in order, and no digest stands there twice."""
        content = _pack(kept)
        at = time.time() if written_at is None else written_at
        name = f"{int(at * 1000):012x}-{len(kept)}-{len(content)}-{uuid.uuid4().hex[:16]}"
        self._storage.write(self._path(name), content)
        return Segment(name, at, len(kept), len(content))

    def digests(self, segment: Segment) -> Digests:
        """Of all its rows, in their order."""
        raw = self._storage.read_range(self._path(segment.name), 0, _HEADER.size + segment.rows * DIGEST_BYTES)
        return _unpack_digests(raw, segment)

    def read(self, segment: Segment) -> Kept:
        """All its rows."""
        raw = self._storage.read(self._path(segment.name))
        digests = _unpack_digests(raw, segment)
        records = _records(raw[_HEADER.size + digests.nbytes :], _dimensions(segment))
        if len(records) != len(digests) or (records["digest"] != digests).any():
            raise Damaged("its records are not those of its digests")
        return _unpack(records)

    def read_rows(self, segment: Segment, rows: Ints) -> Iterator[tuple[Ints, Kept]]:
        """Some of its rows, ascending, in pieces: which of `rows`, and what they are. Each is checked."""
        dimensions = _dimensions(segment)
        size = _record_type(dimensions).itemsize
        start = _HEADER.size + segment.rows * DIGEST_BYTES
        for piece in _pieces(rows, size):
            first, last = int(rows[piece[0]]), int(rows[piece[-1]])
            raw = self._storage.read_range(self._path(segment.name), start + first * size, start + (last + 1) * size)
            records = _records(raw, dimensions)
            if len(records) != last + 1 - first:
                raise Damaged("it is shorter than its name says")
            yield piece, _unpack(records[rows[piece] - first])

    def delete(self, segment: Segment) -> None:
        """No error if it is gone already."""
        self._storage.delete(self._path(segment.name))

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


def _parse(name: str) -> Segment | None:
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    segment = Segment(name, int(found[1], 16) / 1000, int(found[2]), int(found[3]))
    return segment if _dimensions(segment) > 0 else None


def _record_type(dimensions: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("digest", "u1", (DIGEST_BYTES,)),
            ("tokens", "<i4"),
            ("truncated", "<u4"),
            ("vector", "<f4", (dimensions,)),
            ("crc", "<u4"),
        ]
    )


def _dimensions(segment: Segment) -> int:
    """Told by the size of a row; 0 if the numbers do not fit."""
    row, rest = divmod(segment.size - _HEADER.size, segment.rows)
    row -= DIGEST_BYTES + 28  # its digest in front, and what a record has beside its vector
    return row // 4 if rest == 0 and row > 0 and row % 4 == 0 else 0


def _pack(kept: Kept) -> bytes:
    records = np.zeros(len(kept), _record_type(kept.vectors.shape[1]))
    records["digest"], records["tokens"], records["truncated"] = kept.digests, kept.tokens, kept.truncated
    records["vector"] = kept.vectors
    records["crc"] = _checksums(records)
    digests = np.ascontiguousarray(kept.digests).tobytes()
    return _header(len(kept), kept.vectors.shape[1], digests) + digests + records.tobytes()


def _header(rows: int, dimensions: int, digests: bytes) -> bytes:
    check = hashlib.blake2b(struct.pack("<II", rows, dimensions) + digests, digest_size=16).digest()
    return _HEADER.pack(_MAGIC, rows, dimensions, check)


def _unpack_digests(raw: bytes, segment: Segment) -> Digests:
    digests = raw[_HEADER.size : _HEADER.size + segment.rows * DIGEST_BYTES]
    if raw[: _HEADER.size] != _header(segment.rows, _dimensions(segment), digests):
        raise Damaged("its digests are not those that were written")
    return np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)


def _records(raw: bytes, dimensions: int) -> Any:
    kind = _record_type(dimensions)
    if len(raw) % kind.itemsize:
        raise Damaged("its records are cut short")
    return np.frombuffer(raw, kind)


def _unpack(records: Any) -> Kept:
    if (_checksums(records) != records["crc"]).any():
        raise Damaged("a row is not what was written")
    return Kept(
        records["digest"], records["vector"].astype(np.float32), records["tokens"].astype(np.int32), records["truncated"] != 0
    )


def _checksums(records: Any) -> np.ndarray[Any, np.dtype[np.uint32]]:
    size = records.dtype.itemsize
    raw = memoryview(np.ascontiguousarray(records).tobytes())
    return np.array([zlib.crc32(raw[at : at + size - 4]) for at in range(0, len(raw), size)], np.uint32)


def _pieces(rows: Ints, size: int) -> Iterator[Ints]:
    """Positions in `rows`, ascending numbers, cut where a gap or a piece would be too large to read."""
    begin = 0
    for at in range(1, len(rows) + 1):
        if (
            at == len(rows)
            or (rows[at] - rows[at - 1]) * size > _GAP_BYTES
            or (rows[at] - rows[begin] + 1) * size > _MAX_READ_BYTES
        ):
            yield np.arange(begin, at)
            begin = at
