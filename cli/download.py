"""Downloading: results into a file, from where the file ends, or as they come."""

from __future__ import annotations

import glob
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cli.client import ApiClient, Refused, TryAgain

TRIES = 5
# Where the last row is looked for, from the end of a file: longer than any row.
TAIL_BYTES = 4 * 2**20


def append_rows(client: ApiClient, job_id: str, what: str, path: Path, **query: Any) -> bool:
    """Write the rows of `results` or `errors` that the file lacks to its end; a broken connection is taken up again.

    Returns whether the job is done and this is all. Raises Refused if the file holds something else, OSError if it
    cannot be written.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with (
                path.open("a+b") as sink,
                client.download(job_id, what, after=_last_index(sink, path), **query) as download,
            ):
                for block in download.blocks:
                    sink.write(block)
                return download.is_complete
        except TryAgain:
            if attempt == TRIES:
                raise
        time.sleep(min(0.5 * 2.0**attempt, 8.0))
    raise AssertionError("the last try returns or raises")


def replace_file(client: ApiClient, job_id: str, path: Path, *, goes_on: bool, **query: Any) -> bool:
    """Write a file that can only be whole, such as Parquet: beside its name first, then in its place.

    A broken connection is taken up again at the byte where it broke, if the server says that the file will not change. Then
    the part is kept too when it cannot be taken up, and `goes_on` begins with it. Returns whether the job is done.
    """
    part = _Part.find(path) if goes_on else _Part(path, None)
    for attempt in range(1, TRIES + 1):
        try:
            with client.download(job_id, "results", begin=part.size, tag=part.tag, **query) as download:
                if not download.begin:
                    part.remove()
                    part = _Part(path, download.tag)
                    part.remove()
                with part.path.open("ab") as sink:
                    for block in download.blocks:
                        sink.write(block)
            part.path.replace(path)
            return download.is_complete
        except TryAgain as error:
            if attempt == TRIES:
                raise TryAgain(f"{error.message}{'; -c goes on from here' if part.size else ''}") from None
        finally:
            if part.tag is None:
                part.remove()
        time.sleep(min(0.5 * 2.0**attempt, 8.0))
    raise AssertionError("the last try returns or raises")


@dataclass(frozen=True, slots=True)
class _Part:
    """What is there of a file, beside it; its tag stands in its name."""

    of: Path
    tag: str | None

    @classmethod
    def find(cls, of: Path) -> _Part:
        """The part that an earlier call left; an empty one if there is none."""
        for found in of.parent.glob(f"{glob.escape(of.name)}.*.part"):
            tag = found.name.removeprefix(f"{of.name}.").removesuffix(".part")
            if tag.isalnum():
                return cls(of, tag)
        return cls(of, None)

    @property
    def path(self) -> Path:
        return self.of.with_name(f"{self.of.name}.{self.tag}.part" if self.tag else f"{self.of.name}.part")

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.tag is not None and self.path.exists() else 0

    def remove(self) -> None:
        """Remove it, if it is there."""
        self.path.unlink(missing_ok=True)


def stream(client: ApiClient, job_id: str, what: str, sink: BinaryIO, **query: Any) -> bool:
    """Pass the bytes on as they come. Returns whether the job is done and this is all."""
    with client.download(job_id, what, **query) as download:
        for block in download.blocks:
            sink.write(block)
    sink.flush()
    return download.is_complete


def _last_index(sink: BinaryIO, path: Path) -> int | None:
    """The index of the file's last whole row, a torn one behind it cut off; None if it has no row."""
    size = sink.seek(0, 2)
    start = max(0, size - TAIL_BYTES)
    sink.seek(start)
    tail = sink.read()
    whole = tail[: tail.rfind(b"\n") + 1]
    index: int | None = None
    try:
        if whole:
            index = json.loads(whole[whole.rfind(b"\n", 0, -1) + 1 :])["index"]
    except (ValueError, KeyError, TypeError):
        index = None
    if not isinstance(index, int) and (whole or start or not tail.startswith(b'{"id":'[: len(tail)])):
        raise Refused(f"{path} does not hold rows of a job; choose another file")
    if len(whole) < len(tail):
        sink.truncate(start + len(whole))
    sink.seek(0, 2)
    return index
