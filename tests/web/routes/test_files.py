"""/v1/files: streamed uploads, lists, downloads with ranges, and who may see what."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from shared.files import FileUpload
from tests.web.support import error_of
from web.bodies import BLOCK_BYTES

CONTENT = b'{"custom_id":"a"}\n'


def upload(client: FlaskClient, content: bytes = CONTENT, *, filename: str = "in.jsonl", **fields: Any) -> Any:
    """POST a form; a field of None is left out. (Werkzeug's own encoder leaves temporary files open.)"""
    headers = fields.pop("headers", {})
    body = b""
    for name, value in ({"purpose": "batch", "file": content} | fields).items():
        if isinstance(value, bytes):
            body += (
                f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode() + value + b"\r\n"
            )
        elif value is not None:
            body += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    return client.post("/v1/files", data=body + b"--b--\r\n", content_type="multipart/form-data; boundary=b", headers=headers)


def stored(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "storage").rglob("*") if path.is_file() and "file-" in str(path))


def test_an_uploaded_file_is_the_object_that_openai_gives(client: FlaskClient) -> None:
    answer = upload(client)
    assert answer.status_code == 200
    file = answer.json
    assert file | {"id": "", "created_at": 0, "expires_at": 0} == {
        "id": "",
        "object": "file",
        "bytes": len(CONTENT),
        "created_at": 0,
        "expires_at": 0,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert file["id"].startswith("file-")
    assert file["expires_at"] - file["created_at"] == 30 * 86_400
    assert client.get(f"/v1/files/{file['id']}").json == file


def test_the_content_comes_back_whatever_the_client_accepts(client: FlaskClient) -> None:
    file_id = upload(client).json["id"]
    answer = client.get(f"/v1/files/{file_id}/content", headers={"Accept": "application/binary"})
    assert (answer.status_code, answer.data) == (200, CONTENT)
    assert answer.content_length == len(CONTENT)


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=2-5", 206, CONTENT[2:6]),
        ("bytes=5-", 206, CONTENT[5:]),
        ("bytes=-3", 206, CONTENT[-3:]),
        ("rows=1-2", 200, CONTENT),
    ],
)
def test_a_range_goes_on_with_a_broken_download(client: FlaskClient, wanted: str, status: int, content: bytes) -> None:
    file_id = upload(client).json["id"]
    answer = client.get(f"/v1/files/{file_id}/content", headers={"Range": wanted})
    assert (answer.status_code, answer.data) == (status, content)


def test_a_range_behind_the_end_is_refused(client: FlaskClient) -> None:
    file_id = upload(client).json["id"]
    answer = client.get(f"/v1/files/{file_id}/content", headers={"Range": "bytes=1000-"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


def test_a_large_file_comes_back_as_it_was(client: FlaskClient) -> None:
    content = bytes(range(256)) * 12_000
    file_id = upload(client, content).json["id"]
    assert client.get(f"/v1/files/{file_id}/content").data == content


def test_the_purpose_may_come_after_the_file(client: FlaskClient) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\nhello\r\n"
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    )
    answer = client.post("/v1/files", data=body, content_type="multipart/form-data; boundary=b")
    assert answer.status_code == 200
    assert answer.json["bytes"] == 5


def test_a_file_expires_when_its_uploader_says(client: FlaskClient) -> None:
    file = upload(client, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}).json
    assert file["expires_at"] - file["created_at"] == 3600


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": None}, "purpose"),
        ({"file": None}, "file"),
        ({"file": "not a file"}, "file"),
        ({"expires_after[anchor]": "created_at"}, "expires_after"),
        ({"expires_after[anchor]": "last_used_at", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"}, "expires_after.seconds"),
    ],
)
def test_wrong_fields_are_refused_by_name_and_nothing_is_kept(
    client: FlaskClient, tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    answer = upload(client, **fields)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param
    assert stored(tmp_path) == []


@pytest.mark.parametrize("body", [b"", b"--b\r\n", b"--b\r\nno headers", b"hello", b"--b\r\n" + b"x: y" * 400_000])
def test_a_body_that_is_not_well_formed_is_refused_and_nothing_is_kept(client: FlaskClient, tmp_path: Path, body: bytes) -> None:
    answer = client.post("/v1/files", data=body, content_type="multipart/form-data; boundary=b")
    assert answer.status_code == 400
    error_of(answer)
    assert stored(tmp_path) == []


def test_a_body_that_is_no_form_is_refused(client: FlaskClient) -> None:
    answer = client.post("/v1/files", json={"purpose": "batch"})
    assert answer.status_code == 415
    error_of(answer)


def test_an_upload_that_breaks_off_leaves_nothing_behind(client: FlaskClient, tmp_path: Path) -> None:
    whole = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * 100_000
    )
    answer = client.post(
        "/v1/files",
        input_stream=io.BytesIO(whole),
        content_type="multipart/form-data; boundary=b",
        environ_overrides={"CONTENT_LENGTH": "200000"},
    )
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "incomplete_body"
    assert stored(tmp_path) == []


def test_a_file_over_the_limit_is_refused(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    client = make_app(max_file_bytes=1024).test_client()
    assert upload(client, b"x" * 1024).status_code == 200
    before = stored(tmp_path)
    answer = upload(client, b"x" * 1025)
    assert answer.status_code == 413
    error_of(answer)
    assert stored(tmp_path) == before
    answer = client.post(
        "/v1/files", data=b"", content_type="multipart/form-data; boundary=b", environ_overrides={"CONTENT_LENGTH": "9999999"}
    )
    assert answer.status_code == 413


def test_a_name_from_outside_never_makes_a_path_or_a_header(client: FlaskClient) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="../../etc/p\xc3\xa4ss%22.jsonl"\r\n\r\nx\r\n--b--\r\n'
    )
    file = client.post("/v1/files", data=body, content_type="multipart/form-data; boundary=b").json
    assert file["filename"].startswith("päss")
    assert "/" not in file["filename"]
    answer = client.get(f"/v1/files/{file['id']}/content")
    assert answer.headers["Content-Disposition"].startswith("attachment; filename")


def test_files_are_listed_the_newest_first_and_by_page(client: FlaskClient) -> None:
    ids = [upload(client, filename=f"{number}.jsonl").json["id"] for number in range(5)]
    listed = client.get("/v1/files").json
    assert [file["id"] for file in listed["data"]] == ids[::-1]
    assert (listed["object"], listed["has_more"], listed["first_id"], listed["last_id"]) == ("list", False, ids[4], ids[0])
    page = client.get("/v1/files?limit=2&order=asc").json
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[:2], True)
    page = client.get(f"/v1/files?limit=3&order=asc&after={ids[1]}").json
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[2:], False)
    assert client.get("/v1/files?purpose=batch_output").json["data"] == []
    assert len(client.get("/v1/files?purpose=batch").json["data"]) == 5


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up"])
def test_a_wrong_page_is_refused(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/v1/files?{query}")
    assert answer.status_code == 400
    assert error_of(answer)["param"] == query.partition("=")[0]


def test_a_deleted_file_is_gone(client: FlaskClient, tmp_path: Path) -> None:
    file_id = upload(client).json["id"]
    assert client.delete(f"/v1/files/{file_id}", content_type="application/json").json == {
        "id": file_id,
        "object": "file",
        "deleted": True,
    }
    for path in ("", "/content"):
        assert client.get(f"/v1/files/{file_id}{path}").status_code == 404
    assert client.delete(f"/v1/files/{file_id}").status_code == 404
    assert stored(tmp_path) == []


@pytest.mark.parametrize("file_id", ["file-x", "file-" + "0" * 36, "..%2f..%2fetc", "file-" + "A" * 36])
def test_what_is_no_id_of_a_file_is_not_found(client: FlaskClient, file_id: str) -> None:
    for answer in (
        client.get(f"/v1/files/{file_id}"),
        client.get(f"/v1/files/{file_id}/content"),
        client.delete(f"/v1/files/{file_id}"),
    ):
        assert answer.status_code == 404
        error_of(answer)


def test_a_file_belongs_to_the_key_that_uploaded_it(make_app: Callable[..., Flask]) -> None:
    client = make_app(api_keys="mine,yours").test_client()
    mine, yours = {"Authorization": "Bearer mine"}, {"Authorization": "Bearer yours"}
    file_id = upload(client, headers=mine).json["id"]
    assert client.get(f"/v1/files/{file_id}", headers=mine).status_code == 200
    assert client.get(f"/v1/files/{file_id}", headers=yours).status_code == 404
    assert client.get(f"/v1/files/{file_id}/content", headers=yours).status_code == 404
    assert client.delete(f"/v1/files/{file_id}", headers=yours).status_code == 404
    assert client.get("/v1/files", headers=yours).json["data"] == []
    assert client.get("/v1/files").status_code == 401


def test_an_idempotency_key_gives_the_same_file_again(client: FlaskClient, tmp_path: Path) -> None:
    key = {"Idempotency-Key": "k"}
    first = upload(client, headers=key).json
    there = stored(tmp_path)
    assert upload(client, headers=key).json == first
    assert stored(tmp_path) == there
    answer = upload(client, b"other", headers=key)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "idempotency_key_reused"
    client.delete(f"/v1/files/{first['id']}")
    assert upload(client, headers=key).json["id"] != first["id"]


def test_a_list_that_is_deleted_while_it_is_read_loses_nothing(client: FlaskClient) -> None:
    ids = {upload(client).json["id"] for _ in range(4)}
    seen: set[str] = set()
    after = ""
    while page := client.get(f"/v1/files?limit=1&after={after}").json["data"]:
        after = page[0]["id"]
        seen.add(after)
        client.delete(f"/v1/files/{after}")
    assert seen == ids


def test_a_file_goes_to_storage_in_pieces(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write = FileUpload.write

    def spying(self: FileUpload, content: bytes) -> None:
        sizes.append(len(content))
        write(self, content)

    monkeypatch.setattr(FileUpload, "write", spying)
    assert upload(client, b"x" * (5 * 2**20)).json["bytes"] == 5 * 2**20
    assert max(sizes) <= BLOCK_BYTES
