"""Plain text: a text a line."""

from __future__ import annotations

from tests.shared.intake.support import code, parse


def test_each_line_is_a_text_and_blank_ones_are_none() -> None:
    records = parse("text", "\ufeffone\r\n\n  \n two \nüñ".encode())
    assert [(record.line, record.text) for record in records] == [(1, "one"), (4, " two "), (5, "üñ")]


def test_a_line_that_is_not_utf8_or_too_long_is_an_error_row() -> None:
    records = parse("text", b"a\n\xff\xfe\n" + b"x" * 1001 + b"\n" + b"x" * 1000 + b"\r\n" + b"y" * 5000 + b"\nz")
    assert [code(record) for record in records] == [None, "invalid_encoding", "text_too_long", None, "text_too_long", None]
    assert [record.line for record in records] == [1, 2, 3, 4, 5, 6]
