"""Newline-delimited JSON: an object {id, text, metadata} a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from shared.intake.lines import OVERLONG, split_lines
from shared.intake.records import Options, Record, bad, from_object, too_long

# A JSON escape makes at most 6 bytes of one; beside the text a line holds an id and metadata.
_ESCAPE_BYTES = 6
_LINE_EXTRA_BYTES = 64 * 1024


def parse(blocks: Iterable[bytes], options: Options) -> Iterator[Record]:
    """A record for each line that is not blank; one that cannot be read becomes an error row."""
    number = 0
    loads = orjson.loads
    max_text_bytes = options.max_text_bytes
    for line in split_lines(blocks, max_text_bytes * _ESCAPE_BYTES + _LINE_EXTRA_BYTES):
        number += 1
        if line is OVERLONG:
            yield Record(number, None, None, None, too_long(max_text_bytes).json)
            continue
        if not line or line.isspace():
            continue
        try:
            value = loads(line)
        except orjson.JSONDecodeError:
            yield bad(number, "invalid_json_line", "the line is not valid JSON in UTF-8")
            continue
        if type(value) is not dict:
            yield bad(number, "invalid_json_line", "the line is not a JSON object")
            continue
        yield from_object(value, number, len(line), max_text_bytes)
