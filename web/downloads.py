"""Downloads: files that are made while they are sent, and still have a tag, a length and ranges where their bytes are settled."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import orjson
import pyarrow as pa
from flask import Request, Response
from werkzeug.datastructures import Range

from web import failures
from web.openapi.operations import Header, Parameter, Returns

# What a writer makes may change with the libraries it is made with; raise the number when it changes by our own doing.
_WRITERS = f"1 {pa.__version__} {np.__version__} {orjson.__version__}"
MAX_LENGTHS = 1024


RANGES = (
    Parameter("Range", str, "`bytes=FIRST-LAST`: a part of the file; several parts at once get the whole"),
    Parameter("If-Range", str, "the ETag of the file whose part is meant"),
)
_HEADERS = (
    Header("Content-Disposition", "the name of the file", is_always=True),
    Header("Accept-Ranges", "`bytes`, or `none` while the bytes may change", is_always=True),
    Header("ETag", "while it is the same, so are the bytes"),
)


def returns(*media_types: str, headers: Sequence[Header] = ()) -> list[Returns]:
    """A file in one of these types, or a part of it: for the document."""
    whole = [Returns(media_type=media_type, headers=(*_HEADERS, *headers)) for media_type in media_types]
    in_part = (*_HEADERS, Header("Content-Range", "which bytes of how many", is_always=True), *headers)
    return whole + [replace(each, status=206, headers=in_part, description="The part.") for each in whole]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that is made on demand.

    `tag`: while it is the same, so are the bytes; None if nothing is promised, as of a job that runs.
    `length`: tells how many bytes there are, if it need not make them for that. `write_from`: those from a position on.
    """

    media_type: str
    name: str
    tag: str | None
    write: Callable[[], Iterator[bytes]]
    length: Callable[[], int] | None = None
    write_from: Callable[[int], Iterator[bytes]] | None = None


class Lengths:
    """Lengths of files that were made whole once, by tag: the last ones."""

    def __init__(self) -> None:
        self._by_tag: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, tag: str) -> int | None:
        """None if it is not known."""
        with self._lock:
            return self._by_tag.get(tag)

    def put(self, tag: str, length: int) -> None:
        """The oldest one goes if there are many."""
        with self._lock:
            self._by_tag[tag] = length
            if len(self._by_tag) > MAX_LENGTHS:
                self._by_tag.popitem(last=False)


def tag_of(*told: object) -> str:
    """A strong tag of what a file's bytes follow from."""
    return hashlib.sha256(repr((_WRITERS, told)).encode()).hexdigest()[:32]


def send(file: File, request: Request, lengths: Lengths) -> Response:
    """The file, or the part of it that the Range header asks for; of a HEAD request nothing is made.

    One range only; several at once get the whole file. For a range the length must be known: where it cannot be told, the
    file is made once to count it. What goes wrong before the first bytes are there is raised.
    """
    known = file.length() if file.length is not None else lengths.get(file.tag) if file.tag is not None else None
    if request.method == "HEAD":
        return _answer(file, iter(()), 200, known)
    wanted = request.range
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1 or not _still_meant(file, request):
        return _answer(file, _open_first(_counted(file, lengths)), 200, known)
    total = known if known is not None else _count(file, lengths)
    found = _within(wanted, total)
    if found is None:
        response = failures.answer(failures.RangeNotSatisfiable(f"Range: the file has {total} bytes", param="Range"))
        response.headers["Content-Range"] = f"bytes */{total}"
        return response
    begin, end = found
    pieces = file.write_from(begin) if file.write_from is not None else _without(file.write(), begin)
    response = _answer(file, _open_first(_first(pieces, end - begin)), 206, end - begin)
    response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{total}"
    return response


def _within(wanted: Range, total: int) -> tuple[int, int] | None:
    """From which byte to before which; None if there is none of them. More of the end than there is, is the whole."""
    ((begin, _),) = wanted.ranges
    if begin < 0:
        return (max(0, total + begin), total) if total else None
    return wanted.range_for_length(total)


def _still_meant(file: File, request: Request) -> bool:
    """Whether a range of this file is what the client wants, and not of an earlier one."""
    return file.tag is not None and ("If-Range" not in request.headers or request.if_range.etag == file.tag)


def _answer(file: File, body: Iterator[bytes], status: int, length: int | None) -> Response:
    response = Response(body, status, content_type=file.media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{file.name}"'
    response.headers["Cache-Control"] = "no-store"
    response.headers["Accept-Ranges"] = "none" if file.tag is None else "bytes"
    if file.tag is not None:
        response.set_etag(file.tag)
    if length is not None:
        response.content_length = length
    return response


def _counted(file: File, lengths: Lengths) -> Iterator[bytes]:
    """The whole file; its length is known afterwards."""
    length = 0
    for piece in file.write():
        length += len(piece)
        yield piece
    if file.tag is not None:
        lengths.put(file.tag, length)


def _count(file: File, lengths: Lengths) -> int:
    length = sum(map(len, file.write()))
    if file.tag is not None:
        lengths.put(file.tag, length)
    return length


def _without(pieces: Iterator[bytes], skipped: int) -> Iterator[bytes]:
    """All but so many bytes at the beginning."""
    for piece in pieces:
        if skipped < len(piece):
            yield piece[skipped:] if skipped else piece
        skipped = max(0, skipped - len(piece))


def _first(pieces: Iterator[bytes], length: int) -> Iterator[bytes]:
    """So many bytes at the beginning."""
    for piece in pieces:
        yield piece[:length]
        length -= len(piece)
        if length <= 0:
            break


def _open_first(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, the first of them made already: what goes wrong with it is an error, not a broken download."""
    first = next(pieces, b"")

    def all_pieces() -> Iterator[bytes]:
        yield first
        yield from pieces

    return all_pieces()
