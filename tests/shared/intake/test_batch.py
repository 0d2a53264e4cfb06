"""The lines of a batch's file: what is wrong with the file, what is wrong with one request, and rows for the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa
import pytest

from shared.intake import FORMATS, Options, Record, UnreadableInput
from shared.intake.batch import MAX_ERRORS, MAX_LINE_BYTES, Place, count_requests, first_model, parse
from shared.jobs.job import Job, new_batch_id
from shared.records import OUTPUT_SCHEMA


def line(custom_id: Any = "a", body: Any = None, **fields: Any) -> bytes:
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body or {"model": "m", "input": "x"}}
    request |= fields
    return orjson.dumps({name: value for name, value in request.items() if value != "absent"})


def read(*lines: bytes, max_requests: int = 50, max_inputs: int = 100, max_text_bytes: int = 1000) -> list[Record]:
    batch: dict[str, str | int] = {
        "model": "m",
        "endpoint": "/v1/embeddings",
        "max_requests": max_requests,
        "max_inputs": max_inputs,
    }
    job = Job(id=new_batch_id(), owner="o", model="m", created_at=time.time(), shards=(), kind="batch", batch=batch)
    return list(parse([b"\n".join(lines)], Options(max_text_bytes=max_text_bytes, job=job)))


def errors_of(*lines: bytes, **limits: int) -> list[tuple[Any, Any]]:
    with pytest.raises(UnreadableInput) as caught:
        read(*lines, **limits)
    assert all(set(error) == {"code", "message", "line", "param"} for error in caught.value.errors)
    return [(error["code"], error["line"]) for error in caught.value.errors]


def test_it_is_one_of_the_formats() -> None:
    assert FORMATS["batch"].parse is parse
    assert FORMATS["batch"].media_types == ()


def test_a_request_of_one_text_is_a_row() -> None:
    assert read(line("a"), b"", line("b")) == [
        Record(1, "a", "x", Place().to_json(), None),
        Record(3, "b", "x", Place().to_json(), None),
    ]


def test_a_request_of_several_texts_is_as_many_rows_that_know_their_place_and_how_vectors_are_wanted() -> None:
    body = {"model": "m", "input": ["x", "y"], "dimensions": 3, "encoding_format": "base64", "user": "u"}
    rows = read(line("a", body))
    assert [(row.id, row.text) for row in rows] == [("a", "x"), ("a", "y")]
    assert [Place.from_json(row.metadata) for row in rows] == [
        Place(position=number, of=2, dimensions=3, encoding_format="base64") for number in (0, 1)
    ]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"no json", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (line("absent"), "missing_required_parameter"),
        (line(7), "invalid_custom_id"),
        (line(""), "invalid_custom_id"),
        (line("x" * 513), "invalid_custom_id"),
        (line("a"), "duplicate_custom_id"),
        (line(method="GET"), "duplicate_custom_id"),
        (line("b", method="GET"), "invalid_method"),
        (line("b", url="/v1/chat/completions"), "url_mismatch"),
        (line("b", {"model": "other", "input": "x"}), "model_mismatch"),
        (line("b", "a body"), "missing_required_parameter"),
        (b" " * (MAX_LINE_BYTES + 1), "line_too_long"),
    ],
)
def test_a_wrong_line_fails_the_file_with_its_number(wrong: bytes, code: str) -> None:
    assert errors_of(line("a"), wrong, line("z")) == [(code, 2)]


def test_every_wrong_line_is_told_up_to_a_hundred() -> None:
    assert errors_of(b"x", line("a"), b"y", line("a")) == [
        ("invalid_json_line", 1),
        ("invalid_json_line", 3),
        ("duplicate_custom_id", 4),
    ]
    assert len(errors_of(*[b"x"] * 60, max_requests=10_000)) == 60
    assert len(errors_of(*[b"x"] * 500, max_requests=10_000)) == MAX_ERRORS


def test_an_empty_file_says_so() -> None:
    assert errors_of() == [("empty_file", None)]
    assert errors_of(b"", b"  ", b"\t") == [("empty_file", None)]


def test_too_many_requests_or_inputs_fail_the_file() -> None:
    assert len(read(*[line(str(number)) for number in range(3)], max_requests=3)) == 3
    assert errors_of(*[line(str(number)) for number in range(9)], max_requests=3) == [("too_many_tasks", 4)]
    three = {"model": "m", "input": ["x", "y", "z"]}
    assert len(read(line("a", three), line("b", three), max_inputs=6)) == 6
    assert errors_of(line("a", three), line("b", three), max_inputs=5) == [("too_many_inputs", 2)]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"model": "m"}, "missing_required_parameter", "input"),
        ({"input": "x"}, "missing_required_parameter", "model"),
        ({"model": 3, "input": "x"}, "invalid_type", "model"),
        ({"model": "m", "input": ""}, "invalid_value", "input"),
        ({"model": "m", "input": []}, "invalid_value", "input"),
        ({"model": "m", "input": ["x", 3]}, "invalid_type", "input"),
        ({"model": "m", "input": "x" * 1001}, "invalid_value", "input"),
        ({"model": "m", "input": [1, 2]}, "token_ids_not_supported", "input"),
        ({"model": "m", "input": "x", "dimensions": 0}, "invalid_value", "dimensions"),
        ({"model": "m", "input": "x", "encoding_format": "hex"}, "invalid_value", "encoding_format"),
        ({"model": "m", "input": "x", "input_type": "query"}, "unsupported_parameter", "input_type"),
    ],
)
def test_a_wrong_body_is_an_error_row_and_the_other_requests_are_read(body: dict[str, Any], code: str, param: str) -> None:
    rows = read(line("a", body), line("b"))
    assert (rows[0].line, rows[0].id, rows[0].text) == (1, "a", None)
    assert orjson.loads(rows[0].error or "") | {"message": ""} == {"code": code, "message": "", "param": param}
    assert (rows[1].id, rows[1].text) == ("b", "x")


def test_nothing_is_read_ahead_of_what_is_wanted() -> None:
    def blocks() -> Iterator[bytes]:
        yield line("a") + b"\n"
        raise AssertionError("the second block was asked for")

    batch: dict[str, str | int] = {"model": "m", "endpoint": "/v1/embeddings", "max_requests": 5, "max_inputs": 5}
    job = Job(id=new_batch_id(), owner="o", model="m", created_at=0, shards=(), kind="batch", batch=batch)
    assert next(parse(blocks(), Options(max_text_bytes=10, job=job))).id == "a"


@pytest.mark.parametrize(
    ("lines", "model"),
    [
        ([line("a")], "m"),
        ([b"", b"no json", line("a", {"input": "x"}), line("b")], "m"),
        ([b"[]", b'{"body": 3}', b'{"body": {"model": 7}}', b"3"], None),
        ([], None),
    ],
)
def test_the_model_is_that_of_the_first_line_that_names_one(lines: list[bytes], model: str | None) -> None:
    assert first_model([b"\n".join(lines)]) == model


def rows(*wanted: tuple[int, Place | None, bool]) -> pa.Table:
    """Output rows: line, place, whether it failed."""
    return pa.Table.from_pylist(
        [
            {"index": n, "line": number, "metadata": place and place.to_json(), "error": "{}" if is_failed else None}
            for n, (number, place, is_failed) in enumerate(wanted)
        ],
        schema=OUTPUT_SCHEMA,
    )


def test_requests_are_counted_in_the_shard_that_their_last_row_lies_in() -> None:
    first, second = Place(position=0, of=2), Place(position=1, of=2)
    assert count_requests(rows((1, Place(), False), (2, None, True), (3, first, False), (3, second, True))) == (3, 2)
    assert count_requests(rows((1, Place(), False), (2, first, True))) == (1, 0)
    assert count_requests(rows((2, second, False), (3, Place(), False))) == (2, 0)
