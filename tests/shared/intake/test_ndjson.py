"""Newline-delimited JSON; what a bad line becomes is tested end to end with the jobs route."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from tests.shared.intake.support import code, parse


@given(texts=st.lists(st.text(min_size=1, max_size=20), max_size=20), size=st.integers(1, 50), ends=st.booleans())
def test_records_do_not_depend_on_where_blocks_end(texts: list[str], size: int, ends: bool) -> None:
    body = b"\n".join(orjson.dumps({"text": text}) for text in texts) + (b"\n" if ends else b"")
    records = parse("ndjson", body, block_bytes=size)
    assert [record.text for record in records] == texts
    assert [record.line for record in records] == list(range(1, len(texts) + 1))


def test_a_byte_order_mark_and_carriage_returns_are_passed_over() -> None:
    assert [record.text for record in parse("ndjson", b'\xef\xbb\xbf{"text":"a"}\r\n{"text":"b"}\r\n')] == ["a", "b"]


def test_a_line_without_end_is_one_error_row() -> None:
    body = b'{"text":"first"}\n{"text":"' + b"x" * 2_000_000 + b'"}\n{"text":"last"}'
    first, long, last = parse("ndjson", body, block_bytes=10_000)
    assert (first.text, last.text, last.line) == ("first", "last", 3)
    assert (long.line, code(long)) == (2, "text_too_long")
