"""CSV: which field is what, and which rows are none."""

from __future__ import annotations

import csv
import io
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.intake import UnreadableInput
from tests.shared.intake.support import code, parse

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=12)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), st.integers(1, 30), st.sampled_from(",;\t|"))
def test_what_the_csv_module_writes_is_read_as_it_was(rows: list[tuple[str, str]], size: int, delimiter: str) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter)
    writer.writerow(["text", "note"])
    writer.writerows(rows)
    records = parse("csv", sink.getvalue().encode(), block_bytes=size, delimiter=delimiter)
    assert [record.text for record in records] == [text for text, _ in rows]
    assert [orjson.loads(record.metadata or "") for record in records] == [{"note": note} for _, note in rows]


def test_the_usual_columns_are_found_and_the_others_are_metadata() -> None:
    body = b"\xef\xbb\xbfid, text ,source,year\n1,one,web,2020\n,two,,\n"
    one, two = parse("csv", body)
    assert (one.line, one.id, one.text, orjson.loads(one.metadata or "")) == (2, "1", "one", {"source": "web", "year": "2020"})
    assert (two.id, two.text, orjson.loads(two.metadata or "")) == (None, "two", {"source": "", "year": ""})


def test_columns_are_chosen_by_name() -> None:
    body = b"a,b,c,d\n1,2,3,4\n"
    (record,) = parse("csv", body, text_column="b", id_column="d", metadata_columns=["a"])
    assert (record.text, record.id, record.metadata) == ("2", "4", '{"a":"1"}')
    assert parse("csv", body, text_column="b", metadata_columns=[])[0].metadata is None


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_told_from_the_header(delimiter: str) -> None:
    body = delimiter.join(["id", "text", '"a, b; c"']) + "\n" + delimiter.join(["1", '"x, y; z"', "m"]) + "\n"
    (record,) = parse("csv", body.encode())
    assert (record.id, record.text, record.metadata) == ("1", "x, y; z", '{"a, b; c":"m"}')


def test_a_row_over_lines_has_the_line_of_its_beginning_and_the_next_one_its_own() -> None:
    records = parse("csv", b'\nid,text\n1,"a\nb\r\nc ""d"""\n\n2,e\n3\n4,f\n', block_bytes=3)
    assert [(record.line, record.text) for record in records] == [(3, 'a\nb\r\nc "d"'), (7, "e"), (8, None), (9, "f")]


BAD: list[tuple[str, bytes, str, str | None]] = [
    ("too few fields", b"1", "invalid_csv_row", None),
    ("too many fields", b"1,a,b,c", "invalid_csv_row", None),
    ("no text", b"1,,m", "invalid_value", "1"),
    ("something after a quote", b'1,"a"b,m', "invalid_csv_row", None),
    ("a text not UTF-8", b"1,\xff,m", "invalid_encoding", "1"),
    ("an id not UTF-8", b"\xff,a,m", "invalid_encoding", None),
    ("metadata not UTF-8", b"1,a,\xff", "invalid_encoding", "1"),
    ("a text too long", b"1," + b"x" * 1001 + b",m", "text_too_long", "1"),
    ("a text too long in bytes", b"1," + "ü".encode() * 501 + b",m", "text_too_long", "1"),
    ("a line much too long", b"1," + b"x" * 200_000 + b",m", "text_too_long", None),
    ("an id too long", b"x" * 513 + b",a,m", "invalid_value", None),
    ("metadata too long", b"1,a," + b"m" * 17_000, "invalid_value", "1"),
]


@pytest.mark.parametrize(("line", "wrong", "record_id"), [pytest.param(*rest, id=name) for name, *rest in BAD])
def test_a_bad_row_is_an_error_row_and_the_others_are_read(line: bytes, wrong: str, record_id: str | None) -> None:
    before, bad, after = parse("csv", b"id,text,m\n0,before,m\n" + line + b"\n2,after,m\n")
    assert (before.text, after.text, after.line) == ("before", "after", 4)
    assert (code(bad), bad.line, bad.id, bad.text) == (wrong, 3, record_id, None)


def test_a_quote_that_never_ends_costs_bounded_memory_and_is_an_error_row() -> None:
    lines = b"x\n" * 100_000
    records = parse("csv", b'text\ngood\n"' + lines)
    assert (records[0].text, code(records[1]), records[1].line) == ("good", "text_too_long", 3)
    assert records[2].text == "x"  # it goes on where it gave up
    (good, bad) = parse("csv", b'text\ngood\n"never\nended')
    assert (good.text, code(bad), bad.line) == ("good", "invalid_csv_row", 3)


REFUSED: list[tuple[str, bytes, dict[str, Any], str, str | None]] = [
    ("no column text", b"a,b\n1,2\n", {}, "unknown_column", "text_column"),
    ("no such id column", b"text\n1\n", {"id_column": "x"}, "unknown_column", "id_column"),
    ("no such metadata column", b"text\n1\n", {"metadata_columns": ["x"]}, "unknown_column", "metadata_columns"),
    ("a column twice", b"text,text\n1,2\n", {}, "unknown_column", "text_column"),
    ("a header that is not UTF-8", b"text,\xff\n1,2\n", {}, "invalid_encoding", None),
    ("UTF-16", "text,b\n1,2\n".encode("utf-16"), {}, "invalid_encoding", None),
    ("a header that never ends", b'text,"b\n1,2\n', {"delimiter": ","}, "invalid_csv", None),
    ("a header much too long", b"x" * 200_000, {}, "invalid_csv", None),
]


@pytest.mark.parametrize(("body", "options", "wrong", "param"), [pytest.param(*rest, id=name) for name, *rest in REFUSED])
def test_a_file_without_the_columns_is_unreadable(body: bytes, options: dict[str, Any], wrong: str, param: str | None) -> None:
    with pytest.raises(UnreadableInput) as raised:
        parse("csv", body, **options)
    assert (raised.value.reason, raised.value.param) == (wrong, param)


def test_the_error_of_a_wrong_column_names_those_that_are_there() -> None:
    with pytest.raises(UnreadableInput, match="there is no column 'body'; the columns are 'id', 'text'"):
        parse("csv", b"id,text\n1,a\n", text_column="body")


@pytest.mark.parametrize("body", [b"", b"\n \n", b"text\n", b"id,text"])
def test_no_row_is_no_record(body: bytes) -> None:
    assert parse("csv", body) == []
