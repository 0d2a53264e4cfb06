"""Uploads to /v1/embeddings/jobs: every format, packed or not, as a body or in a form; what is wrong leaves nothing behind."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flask.testing import FlaskClient

from shared import records
from shared.files import FileStore
from shared.intake import FORMATS
from tests.shared.intake.support import WRITERS, pack, parquet, separated
from tests.web.conftest import MakeApp
from tests.web.support import error_of, finish, rows_of
from web.parts import EXTENSION, Parts

JOBS = "/v1/embeddings/jobs"
ROWS = [{"id": f"doc-{n}", "text": f"text number {n}"} for n in range(40)]
COMPRESSIONS = [None, "gzip", "zstd"]


def media_type(name: str) -> str:
    return FORMATS[name].media_types[0]


def post(client: FlaskClient, body: bytes, kind: str, query: str = "", **headers: str) -> Any:
    return client.post(f"{JOBS}?{query}", data=body, content_type=kind, headers=headers)


FORM = "multipart/form-data; boundary=b0undary"


def form(*fields: tuple[str, Any]) -> bytes:
    """The fields in this order; a file is (bytes, filename)."""
    body = b""
    for name, value in fields:
        filename = f'; filename="{value[1]}"' if isinstance(value, tuple) else ""
        content = value[0] if isinstance(value, tuple) else value.encode()
        body += f'--b0undary\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--b0undary--\r\n"


def post_form(client: FlaskClient, *fields: tuple[str, Any], query: str = "") -> Any:
    return client.post(f"{JOBS}?{query}", data=form(*fields), content_type=FORM)


def stored(parts: Parts) -> list[str]:
    root = Path(parts.settings.storage)
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


def input_of(parts: Parts, job_id: str) -> list[dict[str, Any]]:
    found = []
    for shard in range(len(parts.jobs.store.get(job_id).shards)):
        with parts.jobs.store.open_input(job_id, shard) as source:
            found += records.read_table(source).to_pylist()
    return found


def texts_of(parts: Parts, response: Any) -> list[str]:
    assert response.status_code == 202, response.data
    return [row["text"] for row in input_of(parts, response.json["id"])]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_is_read_however_it_is_packed(client: FlaskClient, parts: Parts, name: str, compression: str | None) -> None:
    packed = pack(WRITERS[name](ROWS), compression)
    ways = [post(client, packed, media_type(name)), post(client, packed, "application/octet-stream", f"format={name}")]
    if compression is not None:
        ways.append(post(client, packed, media_type(name), **{"Content-Encoding": compression}))
        ways.append(post(client, packed, f"application/{compression}", f"format={name}"))
    ending = FORMATS[name].endings[0] + {None: "", "gzip": ".gz", "zstd": ".zst"}[compression]
    ways.append(post_form(client, ("file", (packed, f"corpus{ending}"))))
    ways.append(post_form(client, ("format", name), ("file", (packed, ""))))
    for response in ways:
        assert texts_of(parts, response) == [row["text"] for row in ROWS]
    if name != "text":
        assert [row["id"] for row in input_of(parts, ways[0].json["id"])] == [row["id"] for row in ROWS]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", ["parquet", "ndjson"])
def test_what_leaves_no_doubt_needs_no_name(client: FlaskClient, parts: Parts, name: str, compression: str | None) -> None:
    packed = pack(WRITERS[name](ROWS), compression)
    assert len(texts_of(parts, post(client, packed, "application/octet-stream"))) == len(ROWS)


def test_parameters_say_how_a_table_is_read(client: FlaskClient, parts: Parts) -> None:
    body = separated([{"key": "1", "body": "a", "x": "m", "y": "n"}], ";")
    query = "text_column=body&id_column=key&metadata_columns=x,y&delimiter=;&dimensions=4&priority=low"
    for response in (
        post(client, body, "text/csv", query),
        post(client, parquet([{"key": "1", "body": "a", "x": "m", "y": "n"}]), media_type("parquet"), query),
        post_form(
            client,
            ("text_column", "body"),
            ("id_column", "key"),
            ("metadata_columns", '["x", "y"]'),
            ("dimensions", "4"),
            ("file", (body, "corpus.csv")),
            query="priority=low",
        ),
    ):
        assert response.status_code == 202, response.data
        assert (response.json["priority"], response.json["parameters"]) == ("low", {"dimensions": 4})
        (row,) = input_of(parts, response.json["id"])
        assert (row["id"], row["text"], row["metadata"]) == ("1", "a", '{"x":"m","y":"n"}')
    (row,) = input_of(parts, post(client, body, "text/csv", "text_column=body&metadata_columns=").json["id"])
    assert row["metadata"] is None
    tabs = post(client, b"id\ttext, really\n1\ta\n", "text/tab-separated-values", "text_column=text, really")
    assert texts_of(parts, tabs) == ["a"]


def test_bad_rows_are_error_rows_with_their_line(client: FlaskClient, parts: Parts) -> None:
    accepted = post(client, b'id,text\n1,"a\nb"\n2\n3,\n4,c\n', "text/csv")
    job_id = accepted.json["id"]
    finish(parts.jobs, job_id)
    assert client.get(f"{JOBS}/{job_id}").json["counts"]["failed"] == 2
    errors = rows_of(client.get(f"{JOBS}/{job_id}/errors"))
    assert [(row["line"], row["error"]["code"]) for row in errors] == [(4, "invalid_csv_row"), (5, "invalid_value")]


def test_an_id_that_comes_twice_is_an_error_row_unless_it_may(client: FlaskClient, parts: Parts) -> None:
    body = b'{"id":"a","text":"1"}\n{"id":"b","text":"2"}\n{"id":"a","text":"3"}\n'
    rows = input_of(parts, post(client, body, media_type("ndjson")).json["id"])
    assert [row["text"] for row in rows] == ["1", "2", None]
    assert orjson.loads(rows[2]["error"]) == {"code": "duplicate_id", "message": "line 1 has the same id", "param": "id"}
    kept = post(client, body, media_type("ndjson"), "on_duplicate=keep")
    assert texts_of(parts, kept) == ["1", "2", "3"]
    as_json = client.post(JOBS, json={"input": [{"id": "a", "text": "1"}, {"id": "a", "text": "2"}]})
    assert orjson.loads(input_of(parts, as_json.json["id"])[1]["error"])["message"] == "row 1 has the same id"


PARQUET = parquet(ROWS)
EMPTY = parquet({"text": pa.array([], pa.string())})
ENCODING = "Content-Encoding"
REFUSED: list[tuple[str, bytes, str, str, dict[str, str], int, str, str | None]] = [
    ("truncated gzip", gzip.compress(b"a\n" * 9999)[:-5], "text/plain", "", {}, 400, "incomplete_body", None),
    (
        "a truncated encoding",
        gzip.compress(b"a\n" * 9999)[:-5],
        "text/plain",
        "",
        {"Content-Encoding": "gzip"},
        400,
        "incomplete_body",
        "Content-Encoding",
    ),
    ("truncated zstd", pack(b"a\n" * 9999, "zstd")[:-2], "text/plain", "", {}, 400, "incomplete_body", None),
    ("not gzip", b"a\n", "application/gzip", "format=text", {}, 400, "invalid_compression", None),
    ("packed, but of what", pack(b"a\n", "gzip"), "application/gzip", "", {}, 400, "unknown_format", "format"),
    ("an unknown format", b"a\n", "application/octet-stream", "format=docx", {}, 400, "invalid_value", "format"),
    ("a batch", b"a\n", "application/octet-stream", "format=batch", {}, 400, "invalid_value", "format"),
    ("a format and another type", b"a\n", "text/plain", "format=csv", {}, 400, "invalid_value", "format"),
    ("not Parquet", b"text\na\n", "application/vnd.apache.parquet", "", {}, 400, "invalid_parquet", None),
    ("half of a Parquet file", PARQUET[:-20], "application/vnd.apache.parquet", "", {}, 400, "invalid_parquet", None),
    ("a wrong column", PARQUET, "application/x-parquet", "text_column=x", {}, 400, "unknown_column", "text_column"),
    ("a wrong CSV column", b"a,b\n1,2\n", "text/csv", "", {}, 400, "unknown_column", "text_column"),
    ("a CSV header alone", b"id,text\n", "text/csv", "", {}, 400, "invalid_value", "input"),
    ("an empty Parquet file", EMPTY, "application/x-parquet", "", {}, 400, "invalid_value", "input"),
    ("Latin-1", b"text\n", "text/csv; charset=latin-1", "", {}, 415, "unsupported_media_type", "Content-Type"),
    ("a long delimiter", b"text\n", "text/csv", "delimiter=ab", {}, 400, "invalid_value", "delimiter"),
    ("a delimiter that is none", b"text\n", "text/csv", "delimiter=x", {}, 400, "invalid_value", "delimiter"),
    ("columns that are none", b"text\n", "text/csv", "metadata_columns=[1]", {}, 400, "invalid_type", "metadata_columns"),
    ("an unknown on_duplicate", b"a\n", "text/plain", "on_duplicate=drop", {}, 400, "invalid_value", "on_duplicate"),
    ("an unknown encoding", b"a\n", "text/plain", "", {ENCODING: "br"}, 415, "unsupported_media_type", ENCODING),
    ("a slip", b"a\n", "text/plain", "text_colum=x", {}, 400, "unknown_parameter", "text_colum"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind", "query", "headers", "status", "code", "param"), [pytest.param(*rest, id=name) for name, *rest in REFUSED]
)
def test_what_is_wrong_as_a_whole_is_refused_and_stores_nothing(
    client: FlaskClient,
    parts: Parts,
    body: bytes,
    kind: str,
    query: str,
    headers: dict[str, str],
    status: int,
    code: str,
    param: str | None,
) -> None:
    response = post(client, body, kind, query, **headers)
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
    assert stored(parts) == []


def test_a_slip_is_answered_with_what_was_meant_and_strangers_are_passed_over(client: FlaskClient) -> None:
    for name, meant in (("dimension", "dimensions"), ("prioritty", "priority"), ("metadata_column", "metadata_columns")):
        error = error_of(post(client, b"a\n", "text/plain", f"{name}=x"))
        assert error["message"] == f"{name}: there is no such parameter; did you mean {meant}?"
    assert error_of(client.post(JOBS, json={"input": ["a"], "modle": "m"}))["param"] == "modle"
    assert post(client, b"a\n", "text/plain", "utm_source=x&_=1").status_code == 202
    assert client.post(JOBS, json={"input": ["a"], "user": "u", "encoding_format": "float"}).status_code == 202


BOMBS = {
    "gzip": (gzip.compress(b"a\n" * 5_000_000), "text/plain", {}),
    "zstd": (pack(b"a\n" * 5_000_000, "zstd"), "text/plain", {}),
    "an encoding": (pack(b"a\n" * 5_000_000, "zstd"), "text/plain", {"Content-Encoding": "zstd"}),
    "gzip in zstd": (pack(gzip.compress(b"a\n" * 5_000_000), "zstd"), "text/plain", {"Content-Encoding": "zstd"}),
    "pages": (
        parquet({"text": ["x" * 100_000 + str(n) for n in range(60)]}, compression="zstd", use_dictionary=False),
        "application/x-parquet",
        {},
    ),
}


@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_a_bomb_is_stopped_at_the_limit(make_app: MakeApp, bomb: str) -> None:
    app = make_app(max_upload_bytes=2**20, shard_seconds=1)
    body, kind, headers = BOMBS[bomb]
    assert len(body) < 100_000
    response = post(app.test_client(), body, kind, **headers)
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert stored(app.extensions[EXTENSION]) == []


FILE = ("file", (b"a\nb\n", "corpus.txt"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([FILE, ("dimensions", "4")], "dimensions"),
        ([FILE, FILE], "file"),
        ([("dimensions", "4")], "file"),
        ([], "file"),
        ([("corpus", (b"a\n", "corpus.txt"))], "corpus"),
        ([("dimensions", "x"), FILE], "dimensions"),
        ([("text_colum", "x"), FILE], "text_colum"),
        ([("file", (b"a\n", "corpus.docx"))], "format"),
    ],
)
def test_a_form_that_is_not_fields_and_then_one_file_is_refused(
    client: FlaskClient, parts: Parts, fields: list[Any], param: str
) -> None:
    response = post_form(client, *fields)
    assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert stored(parts) == []


def test_a_form_with_endless_fields_is_refused(client: FlaskClient, parts: Parts) -> None:
    assert post_form(client, *[(f"field{n}", "x") for n in range(100)], FILE).status_code == 400
    assert post_form(client, ("metadata", "x" * 100_000), FILE).status_code == 400
    assert stored(parts) == []


class HangsUp(io.BytesIO):
    """A body whose client hangs up when so much was read."""

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(min(size or 0, 50_000) if size and size > 0 else 50_000)
        if not found:
            raise ConnectionResetError
        return found


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("is_form", [False, True])
def test_a_client_that_hangs_up_leaves_nothing_behind(make_app: MakeApp, name: str, is_form: bool) -> None:
    app = make_app(shard_seconds=1)
    body = WRITERS[name]([{"id": str(n), "text": f"a text of some length {n}"} for n in range(5000)])
    kind = media_type(name)
    if is_form:
        body, kind = form(("file", (body, f"corpus{FORMATS[name].endings[0]}"))), FORM
    environ = {"wsgi.input": HangsUp(body[: len(body) * 3 // 4]), "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    response = app.test_client().post(JOBS, content_type=kind, environ_overrides=environ)
    assert (response.status_code, error_of(response)["code"]) == (400, "incomplete_body")
    assert stored(app.extensions[EXTENSION]) == []


@pytest.mark.parametrize("end", [b"", b"\r\n--b0undary", b"\r\n--other--\r\n"])
def test_a_form_that_ends_early_is_no_job(client: FlaskClient, parts: Parts, end: bytes) -> None:
    body = b'--b0undary\r\nContent-Disposition: form-data; name="file"; filename="c.txt"\r\n\r\na\nb' + end
    response = client.post(JOBS, data=body, content_type=FORM)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_multipart")
    assert stored(parts) == []


def test_the_same_form_sent_again_is_the_same_job_whatever_its_boundary(client: FlaskClient) -> None:
    ids = set()
    for _ in range(2):
        data = {"file": (io.BytesIO(b"a\nb\n"), "corpus.txt")}
        response = client.post(JOBS, data=data, headers={"Idempotency-Key": "k"})
        assert response.status_code == 202, response.data
        ids.add(response.json["id"])
    assert len(ids) == 1
    other = client.post(JOBS, data={"file": (io.BytesIO(b"a\nc\n"), "corpus.txt")}, headers={"Idempotency-Key": "k"})
    assert error_of(other)["code"] == "idempotency_key_reused"


# Sources


def put_file(parts: Parts, content: bytes, filename: str = "corpus.ndjson", owner: str = "anonymous") -> str:
    with FileStore(parts.jobs.store.storage).create(owner=owner, filename=filename, purpose="batch") as upload:
        upload.write(content)
    return upload.file.id


def owner_of(client: FlaskClient, parts: Parts) -> str:
    return parts.jobs.store.get(client.post(JOBS, json={"input": ["a"]}).json["id"]).owner


def test_a_file_becomes_a_job_that_is_validating(client: FlaskClient, parts: Parts) -> None:
    file_id = put_file(parts, b"text\na\n", "corpus.csv.gz", owner_of(client, parts))
    response = client.post(JOBS, json={"input_file_id": file_id, "text_column": "body", "on_duplicate": "keep"})
    assert response.status_code == 202, response.data
    assert (response.json["status"], response.json["counts"]["total"]) == ("validating", 0)
    job = parts.jobs.store.get(response.json["id"])
    assert job.source is not None
    assert (job.is_prepared, job.shards, job.on_duplicate) == (False, (), "keep")
    assert (job.source.file_id, job.source.format, job.source.compression) == (file_id, "csv", "gzip")
    assert job.source.columns == {"text": "body"}
    assert job.source.shard_tokens


def test_a_source_is_named_once_and_is_the_callers(client: FlaskClient, parts: Parts) -> None:
    theirs = put_file(parts, b"a\n", owner="somebody")
    for body, status, param in (
        ({"input_file_id": theirs}, 404, "input_file_id"),
        ({"input_file_id": "file-x"}, 404, "input_file_id"),
        ({"input_file_id": 7}, 400, "input_file_id"),
        ({"input_file_id": theirs, "input": ["a"]}, 400, "input"),
        ({"input_file_id": theirs, "input_url": "s3://b/x"}, 400, "input"),
        ({"input_url": "s3://bucket/corpus.csv"}, 400, "input_url"),
        ({"input_url": ["s3://bucket/corpus.csv"]}, 400, "input_url"),
        ({"input_file": "x"}, 400, "input_file"),
    ):
        response = client.post(JOBS, json=body)
        assert (response.status_code, error_of(response)["param"]) == (status, param), body
    assert parts.jobs.store.ids() == []


def test_a_url_must_be_under_a_root_that_is_allowed(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(input_roots=f"{tmp_path}/corpora, s3://bucket/public")
    client = app.test_client()
    for url in (f"{tmp_path}/corpora/a.csv", f"file://{tmp_path}/corpora/a.csv", "s3://bucket/public/deep/a.parquet"):
        response = client.post(JOBS, json={"input_url": url})
        assert (response.status_code, response.json.get("status")) == (202, "validating"), response.data
    for url in (
        f"{tmp_path}/corpora/../x.csv",
        f"{tmp_path}/corpora-evil/x",
        "s3://bucket/publication",
        "s3://bucket-evil/public/x",
    ):
        response = client.post(JOBS, json={"input_url": url})
        assert (response.status_code, error_of(response)["param"]) == (400, "input_url"), url


def test_the_same_source_under_the_same_key_is_the_same_job(client: FlaskClient, parts: Parts) -> None:
    owner = owner_of(client, parts)
    one, two = put_file(parts, b"a\n", owner=owner), put_file(parts, b"a\n", owner=owner)
    key = {"Idempotency-Key": "k"}
    first = client.post(JOBS, json={"input_file_id": one}, headers=key)
    again = client.post(JOBS, json={"input_file_id": one}, headers=key)
    assert first.json["id"] == again.json["id"]
    assert error_of(client.post(JOBS, json={"input_file_id": two}, headers=key))["code"] == "idempotency_key_reused"


def test_a_parquet_upload_keeps_its_metadata(client: FlaskClient, parts: Parts) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"], "year": [2020], "tags": [["x"]]}), sink)
    (row,) = input_of(parts, post(client, sink.getvalue(), media_type("parquet")).json["id"])
    assert orjson.loads(row["metadata"]) == {"year": 2020, "tags": ["x"]}
