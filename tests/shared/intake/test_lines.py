"""Lines out of blocks."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from shared.intake.lines import OVERLONG, split_lines


def blocks_of(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


LINES = st.lists(st.binary(max_size=8).map(lambda line: line.translate(None, b"\n\xef")), max_size=20)


@given(LINES, st.integers(1, 9), st.booleans())
def test_lines_do_not_depend_on_where_blocks_end(lines: list[bytes], size: int, ends: bool) -> None:
    body = b"".join(line + b"\n" for line in lines) + (b"" if ends else b"x")
    assert list(split_lines(blocks_of(body, size), 100)) == lines + ([] if ends else [b"x"])


def test_a_byte_order_mark_is_passed_over_however_it_is_cut() -> None:
    for size in (1, 2, 3, 100):
        assert list(split_lines(blocks_of(b"\xef\xbb\xbfa\n\xef\xbb\xbfb", size), 100)) == [b"a", b"\xef\xbb\xbfb"]


def test_of_a_line_without_end_nothing_is_kept() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"first\nxx"
        for _ in range(200):
            yield b"x" * 10_000
        yield b"x\nlast"

    first, long, last = split_lines(blocks(), 1000)
    assert (first, last) == (b"first", b"last")
    assert long is OVERLONG
