"""CSV with a header: a column of texts, one of ids, and the others as metadata.

The standard library's reader, since it tells where it is: pyarrow's is faster, but of a bad row it knows no line, and a
quoted line end at the end of a block is beyond it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from shared.intake.columns import TEXT, choose
from shared.intake.lines import OVERLONG, split_lines
from shared.intake.records import (
    BadRecord,
    Options,
    Record,
    UnreadableInput,
    bad,
    checked_id,
    metadata_json,
    too_long,
    utf8_bytes,
)

DELIMITERS = ",;\t|"
# Quotes are doubled; beside the text a row holds an id and metadata.
_QUOTING_BYTES = 2
_ROW_EXTRA_BYTES = 64 * 1024


def parse(blocks: Iterable[bytes], options: Options) -> Iterator[Record]:
    """A record for each row but the header, its line that of its beginning; a row that cannot be read becomes an error row.

    Raises UnreadableInput if there is no header with the columns, at the first record.
    """
    # The lines bound a field, and the reader's own limit is one for the whole process.
    csv.field_size_limit(2**31 - 1)
    lines = _Lines(blocks, options.max_text_bytes * _QUOTING_BYTES + _ROW_EXTRA_BYTES)
    header = lines.peek()
    if header is None:
        return
    rows = csv.reader(lines, delimiter=_delimiter(header, options), strict=True)
    columns = _Columns(_names(rows), options)
    while True:
        line = lines.number + 1
        lines.row_bytes = 0
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield bad(line, "invalid_csv_row", f"the row is not valid CSV: {error}")
            continue
        except _TooLong:
            yield Record(line, None, None, None, too_long(options.max_text_bytes).json)
            continue
        if row:
            yield columns.record(row, line)


class _TooLong(Exception):
    """A line, or the lines of one row together, are over the limit."""


class _Lines:
    """The lines of an input as the reader wants them; of a row, which a quote may stretch over lines, so much at most."""

    def __init__(self, blocks: Iterable[bytes], max_row_bytes: int) -> None:
        self._lines = split_lines(blocks, max_row_bytes)
        self._max_row_bytes = max_row_bytes
        self._peeked: bytes | None = None
        self.number = 0  # lines read so far
        self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._peeked is None:
            line = next(self._lines)
        else:
            line, self._peeked = self._peeked, None
        self.number += 1
        self.row_bytes += len(line)
        if line is OVERLONG or self.row_bytes > self._max_row_bytes:
            raise _TooLong
        # What is no UTF-8 becomes lone surrogates, which are told field by field.
        return line.decode("utf-8", "surrogateescape") + "\n"

    def peek(self) -> str | None:
        """The first line that is not blank, which is read again; None if there is none."""
        for line in self._lines:
            if line is OVERLONG or line.strip():
                self._peeked = line
                return line[:_ROW_EXTRA_BYTES].decode("utf-8", "replace")
            self.number += 1
        return None


def _delimiter(header: str, options: Options) -> str:
    """The one asked for; else the one that makes the text's column a column of the header, or the most columns."""
    if options.delimiter is not None:
        return options.delimiter

    def fitness(delimiter: str) -> tuple[bool, int]:
        try:
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter, strict=True))]
        except csv.Error:
            return False, 0
        return (options.text_column or TEXT) in names, len(names)

    return max(DELIMITERS, key=fitness)  # the first where several fit as well


def _names(rows: Iterator[list[str]]) -> list[str]:
    try:
        names = [name.strip() for name in next(rows)]
    except (csv.Error, _TooLong) as error:
        message = f"the header is not valid CSV: {str(error) or 'it is too long'}"
        raise UnreadableInput(message, code="invalid_csv", line=1) from None
    if any(not name.isascii() and name != name.encode(errors="ignore").decode() for name in names):
        raise UnreadableInput("the header is not UTF-8", code="invalid_encoding", line=1)
    return names


class _Columns:
    """Which field of a row is what."""

    def __init__(self, names: list[str], options: Options) -> None:
        self._max_text_bytes = options.max_text_bytes
        self._width = len(names)
        chosen = choose(names, options)
        self._text, self._id = names.index(chosen.text), None if chosen.id is None else names.index(chosen.id)
        self._metadata = [(name, names.index(name)) for name in chosen.metadata]

    def record(self, row: list[str], line: int) -> Record:
        """The record of a row."""
        if len(row) != self._width:
            return bad(line, "invalid_csv_row", f"the row has {len(row)} fields, the header {self._width}")
        record_id = None
        try:
            if self._id is not None and row[self._id]:
                record_id = checked_id(_utf8(row[self._id], "id"))
            text = row[self._text]
            if not text:
                raise BadRecord("invalid_value", "the text is empty", "text")
            if len(_utf8(text, "text")) * 4 > self._max_text_bytes and utf8_bytes(text) > self._max_text_bytes:
                raise too_long(self._max_text_bytes)
            metadata = None
            if self._metadata:
                metadata = metadata_json({name: _utf8(row[field], "metadata") for name, field in self._metadata})
            return Record(line, record_id, text, metadata, None)
        except BadRecord as wrong:
            return Record(line, record_id, None, None, wrong.json)


def _utf8(field: str, param: str) -> str:
    if not field.isascii():
        try:
            field.encode()
        except UnicodeEncodeError:
            raise BadRecord("invalid_encoding", f"the {param} is not UTF-8", param) from None
    return field
