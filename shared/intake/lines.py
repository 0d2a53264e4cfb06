"""The lines of a stream of blocks; of a line that is too long nothing is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Stands in the place of a line that is too long: no line contains its own end.
OVERLONG = b"\n"


def split_lines(blocks: Iterable[bytes], max_line_bytes: int) -> Iterator[bytes]:
    """The lines without their ends; a byte order mark is passed over. One over the limit is OVERLONG instead, told by `is`."""
    rest = b""
    is_first = True
    skipping = False
    for block in blocks:
        if skipping:
            end = block.find(b"\n")
            if end < 0:
                continue
            block = block[end + 1 :]
            skipping = False
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if is_first:
                line = line.removeprefix(BYTE_ORDER_MARK)
                is_first = False
            yield line if len(line) <= max_line_bytes else OVERLONG
        if len(rest) > max_line_bytes:
            yield OVERLONG
            rest = b""
            skipping = True
            is_first = False
    if rest:
        yield rest.removeprefix(BYTE_ORDER_MARK) if is_first else rest
