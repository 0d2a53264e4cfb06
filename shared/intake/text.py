"""Plain text: a text a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shared.intake.lines import OVERLONG, split_lines
from shared.intake.records import Options, Record, bad, too_long


def parse(blocks: Iterable[bytes], options: Options) -> Iterator[Record]:
    """A record for each line that is not blank, without its end; one that is not UTF-8 becomes an error row."""
    # One byte more: a carriage return at the end is none of the text.
    for number, line in enumerate(split_lines(blocks, options.max_text_bytes + 1), 1):
        text = line.removesuffix(b"\r")
        if line is OVERLONG or len(text) > options.max_text_bytes:
            yield Record(number, None, None, None, too_long(options.max_text_bytes).json)
        elif text and not text.isspace():
            try:
                yield Record(number, None, text.decode(), None, None)
            except UnicodeDecodeError:
                yield bad(number, "invalid_encoding", "the line is not UTF-8", "text")
