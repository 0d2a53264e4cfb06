"""Downloading: results into a file, from where the file ends, or as they come."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import BinaryIO

from cli.client import ApiClient, Refused, TryAgain

TRIES = 5
# Where the last row is looked for, from the end of a file: longer than any row.
TAIL_BYTES = 4 * 2**20


def append_rows(client: ApiClient, job_id: str, what: str, path: Path) -> bool:
    """Write the rows of `results` or `errors` that the file lacks to its end; a broken connection is taken up again.

    Returns whether the job is done and this is all. Raises Refused if the file holds something else, OSError if it
    cannot be written.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with path.open("a+b") as sink, client.download(job_id, what, after=_last_index(sink, path)) as download:
                for block in download.blocks:
                    sink.write(block)
                return download.is_complete
        except TryAgain:
            if attempt == TRIES:
                raise
        time.sleep(min(0.5 * 2.0**attempt, 8.0))
    raise AssertionError("the last try returns or raises")


def replace_file(client: ApiClient, job_id: str, form: str, path: Path) -> bool:
    """Write a file that can only be whole, such as Parquet: beside its name first, then in its place.

    Returns whether the job is done and this is all.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as sink, client.download(job_id, "results", format=form) as download:
            for block in download.blocks:
                sink.write(block)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return download.is_complete


def stream(client: ApiClient, job_id: str, what: str, sink: BinaryIO, **query: str) -> bool:
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
