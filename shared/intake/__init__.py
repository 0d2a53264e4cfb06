"""Input of jobs: from the blocks of an upload, a file or a URL to records, and from records to shards."""

from __future__ import annotations

from dataclasses import dataclass

from shared.intake import batch, ndjson, parquet, separated, text
from shared.intake.records import Options, Parse, Record, UnreadableInput

__all__ = ["FORMATS", "Format", "Options", "Parse", "Record", "UnreadableInput"]


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of input. One without media types and endings cannot be asked for by name: a part of our own chooses it."""

    parse: Parse
    media_types: tuple[str, ...] = ()  # the first is the usual one
    endings: tuple[str, ...] = ()


# A new kind of input is a module beside this one and a line here.
FORMATS: dict[str, Format] = {
    "ndjson": Format(
        ndjson.parse,
        ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"),
        (".ndjson", ".jsonl"),
    ),
    "csv": Format(separated.parse, ("text/csv", "text/tab-separated-values"), (".csv", ".tsv")),
    "text": Format(text.parse, ("text/plain",), (".txt", ".text")),
    "parquet": Format(parquet.parse, ("application/vnd.apache.parquet", "application/x-parquet"), (".parquet", ".pq")),
    "batch": Format(batch.parse),
}
