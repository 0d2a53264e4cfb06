"""What may be read, and what only looks like it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import InvalidParameter, NotFound
from shared.locations import check_allowed, open_location, parse_location

ROOTS = ["/srv/corpora/", "s3://bucket/public", "https://Example.org/data"]


@pytest.mark.parametrize(
    ("url", "spelling"),
    [
        ("/srv/corpora/a.csv", "/srv/corpora/a.csv"),
        ("file:///srv//corpora/b/a.csv", "/srv/corpora/b/a.csv"),
        ("local:///srv/corpora/a", "/srv/corpora/a"),
        ("S3://bucket/public/a b.csv", "s3://bucket/public/a b.csv"),
        ("https://EXAMPLE.org/data/x", "https://example.org/data/x"),
    ],
)
def test_what_is_under_a_root_gets_one_spelling(url: str, spelling: str) -> None:
    assert check_allowed(url, ROOTS, "input_url") == spelling


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.csv",
        "/srv/corpora/../secret",
        "/srv/corpora/./../secret",
        "/srv/corporation",
        "/etc/passwd",
        "file://host/srv/corpora/a",
        "s3://bucket/publication/a",
        "s3://bucket-evil/public/a",
        "s3://bucket/public/../private",
        "s3://bucket/public/%2e%2e/private",
        "s3://bucket/public/x%2f..%2f..%2fprivate",
        "s3://bucket//public/a",
        "s3://user@bucket/public/a",
        "s3a://bucket/public/a",
        "https://example.org:80/data/x",
        "https://example.org@evil.org/data/x",
        "https://example.org/data/x?next=y",
        "https://example.org/data/x#y",
        "simplecache::s3://bucket/public/a",
        "s3://bucket/public/a::file:///etc/passwd",
        "zip:///srv/corpora/a",
        "/srv/corpora/a\0b",
        "/srv/corpora\\..\\secret",
        "s3://bucket/public/" + "x" * 3000,
    ],
)
def test_what_is_not_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        check_allowed(url, ROOTS, "input_url")
    assert raised.value.param == "input_url"


def test_without_roots_nothing_is_read() -> None:
    with pytest.raises(InvalidParameter, match="reads no URLs"):
        check_allowed("/srv/corpora/a", [], "input_url")


def test_a_file_is_opened_with_its_version(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    file, version = open_location(str(path), [str(tmp_path)], "input_url")
    with file:
        assert file.read() == b"one"
    path.write_bytes(b"other")
    other, changed = open_location(f"file://{path}", [f"file://{tmp_path}"], "input_url")
    other.close()
    assert changed != version


def test_a_link_may_stay_inside_and_not_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (root / "a").write_bytes(b"a")
    (root / "inside").symlink_to(root / "a")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (tmp_path / "alias").symlink_to(root)  # the root itself may be a link
    for name in ("inside", "a"):
        open_location(str(tmp_path / "alias" / name), [str(tmp_path / "alias")], "input_url")[0].close()
    for name in ("outside", "up/secret"):
        with pytest.raises(InvalidParameter):
            open_location(str(root / name), [str(root)], "input_url")


def test_what_is_no_file_is_not_found_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory", "missing", "missing/x"):
        with pytest.raises(NotFound):
            open_location(str(tmp_path / name), [str(tmp_path)], "input_url")


def test_other_filesystems_are_read_through_fsspec() -> None:
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/corpora/a", b"text")
    file, version = open_location("memory://corpora/a", ["memory://corpora"], "input_url")
    with file:
        assert file.read() == b"text"
    assert version.startswith("4-")
    with pytest.raises(NotFound):
        open_location("memory://corpora/missing", ["memory://corpora"], "input_url")


@pytest.mark.parametrize("root", ["relative", "s3://", "s3://u:p@bucket", "/a/../b"])
def test_a_root_that_is_none_is_a_wrong_setting(root: str) -> None:
    with pytest.raises(ValueError, match=r"must|has"):
        parse_location(root)
