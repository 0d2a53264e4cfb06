"""Downloads: tags, lengths and ranges of files that are made while they are sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, request

from web.downloads import MAX_LENGTHS, File, Lengths, send, tag_of
from web.failures import install

CONTENT = bytes(range(100))


class Server:
    """One file; `made` tells how often it was begun."""

    def __init__(self, *, tag: str | None = "t1", piece: int = 7, **options: Any) -> None:
        self.made = 0
        self.tag = tag
        self.piece = piece
        self.options = options
        app = Flask("test")
        install(app)
        app.add_url_rule("/", "file", self._send)
        self.lengths = Lengths()
        self.client = app.test_client()

    def _write(self, position: int = 0) -> Iterator[bytes]:
        self.made += 1
        for begin in range(position, len(CONTENT), self.piece):
            yield CONTENT[begin : begin + self.piece]

    def _send(self) -> Response:
        file = File(media_type="application/x", name="n.x", tag=self.tag, write=self._write, **self.options)
        return send(file, request, self.lengths)

    def get(self, wanted: str | None = None, *, method: str = "GET", **headers: str) -> Any:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.open("/", method=method, headers=given | ({} if wanted is None else {"Range": wanted}))


@pytest.fixture(params=["counted", "length known", "begun anywhere"])
def server(request: pytest.FixtureRequest) -> Server:
    """A file whose length must be counted, or is known; which is made from its beginning, or from anywhere."""
    server = Server()
    if request.param != "counted":
        server.options["length"] = lambda: len(CONTENT)
    if request.param == "begun anywhere":
        server.options["write_from"] = server._write
    return server


def test_a_download_broken_off_at_any_byte_goes_on_there(server: Server) -> None:
    whole = server.get()
    assert (whole.status_code, whole.data, whole.headers["Accept-Ranges"]) == (200, CONTENT, "bytes")
    for position in range(len(CONTENT)):
        rest = server.get(f"bytes={position}-", If_Range=whole.headers["ETag"])
        assert (rest.status_code, rest.data) == (206, CONTENT[position:])
        assert rest.headers["Content-Range"] == f"bytes {position}-99/100"
        assert rest.headers["Content-Length"] == str(100 - position)
        assert rest.headers["ETag"] == whole.headers["ETag"]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-0", CONTENT[:1]),
        ("bytes=6-7", CONTENT[6:8]),
        ("bytes=0-99", CONTENT),
        ("bytes=90-1000", CONTENT[90:]),
        ("bytes=-1", CONTENT[-1:]),
        ("bytes=-30", CONTENT[-30:]),
    ],
)
def test_a_range_is_what_it_says(server: Server, wanted: str, part: bytes) -> None:
    found = server.get(wanted)
    assert (found.status_code, found.data, found.headers["Content-Length"]) == (206, part, str(len(part)))


@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=100-200", "bytes=5000-"])
def test_a_range_behind_the_end_is_416_with_the_length(server: Server, wanted: str) -> None:
    found = server.get(wanted)
    assert (found.status_code, found.headers["Content-Range"]) == (416, "bytes */100")
    assert found.json["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("wanted", ["bytes=1-2,4-5", "rows=1-2", "bytes=x-", "bytes=9-3", "nonsense"])
def test_a_range_that_is_not_understood_gets_the_whole(server: Server, wanted: str) -> None:
    found = server.get(wanted)
    assert (found.status_code, found.data) == (200, CONTENT)


@pytest.mark.parametrize("tag", ['"another"', "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_range_of_another_file_gets_the_whole_of_this_one(server: Server, tag: str) -> None:
    found = server.get("bytes=50-", If_Range=tag)
    assert (found.status_code, found.data) == (200, CONTENT)


def test_a_file_that_may_change_has_neither_tag_nor_ranges() -> None:
    found = Server(tag=None).get("bytes=5-")
    assert (found.status_code, found.data, found.headers["Accept-Ranges"]) == (200, CONTENT, "none")
    assert "ETag" not in found.headers
    assert "Content-Length" not in found.headers


def test_head_tells_all_and_makes_nothing(server: Server) -> None:
    head = server.get(method="HEAD")
    assert (head.status_code, head.data, server.made) == (200, b"", 0)
    assert head.headers.get("Content-Length") == ("100" if server.options else None)
    whole = server.get()
    assert (whole.data, whole.headers["ETag"]) == (CONTENT, head.headers["ETag"])
    assert server.get(method="HEAD").headers["Content-Length"] == "100"  # it was made once


def test_a_length_is_counted_once() -> None:
    server = Server()
    for made in (2, 3, 4):
        server.get("bytes=50-")
        assert server.made == made


def test_no_more_is_made_than_the_range_wants() -> None:
    server = Server(piece=1, length=lambda: len(CONTENT))
    taken: list[int] = []
    write = server._write

    def noted(position: int = 0) -> Iterator[bytes]:
        for piece in write(position):
            taken.append(piece[0])
            yield piece

    server.options["write_from"] = noted
    assert server.get("bytes=40-42").data == CONTENT[40:43]
    assert taken == [40, 41, 42]


def test_few_lengths_are_kept() -> None:
    lengths = Lengths()
    for number in range(MAX_LENGTHS + 1):
        lengths.put(str(number), number)
    assert (lengths.get("0"), lengths.get("1")) == (None, 1)


def test_a_tag_tells_apart_what_it_is_told() -> None:
    assert tag_of("a", 1) == tag_of("a", 1)
    assert len({tag_of("a", 1), tag_of("a", "1"), tag_of("a1"), tag_of("a", 1, None)}) == 4
