"""Keys and the files that hold them."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from shared.access import KeyFile, KnownKeys, Limits, UnreadableKeys
from shared.access import known as known_module
from shared.access.files import MAX_FILE_BYTES
from shared.access.known import is_loopback
from tests.support.waiting import wait_until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question looks at the files."""
    monkeypatch.setattr(known_module, "LOOK_EVERY_S", 0.0)
    return


def write_list(file: Path, content: Any) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_key_is_not_in_its_file(file: Path) -> None:
    entry, key = KeyFile(file).create("alice", "embed", Limits(jobs=2))

    text = file.read_text()
    assert key not in text
    assert key[-8:] not in text
    assert entry.hint == key[-4:]
    assert KeyFile(file).entries() == [entry]
    assert file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in file.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_a_key_is_revoked_by_id_or_name(file: Path) -> None:
    keys = KeyFile(file)
    (first, _), (second, _) = keys.create("a", "embed", Limits()), keys.create("b", "admin", Limits())

    keys.revoke(first.id)
    assert keys.entries() == [second]
    keys.revoke("b")
    assert keys.entries() == []
    with pytest.raises(LookupError):
        keys.revoke("b")


def test_a_name_is_there_once(file: Path) -> None:
    KeyFile(file).create("a", "embed", Limits())
    with pytest.raises(ValueError, match="already"):
        KeyFile(file).create("a", "embed", Limits())


def _create(file: str, name: str) -> None:
    KeyFile(Path(file)).create(name, "embed", Limits())


def test_two_writers_at_once_lose_no_entry(file: Path) -> None:
    names = [f"k{number}" for number in range(12)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_create, [(str(file), name) for name in names])

    assert {key.name for key in KeyFile(file).entries()} == set(names)


def test_a_broken_file_is_not_written_over(file: Path) -> None:
    file.write_text("{")
    with pytest.raises(UnreadableKeys):
        KeyFile(file).create("a", "embed", Limits())
    assert file.read_text() == "{"


def test_a_write_that_fails_leaves_the_file_and_nothing_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KeyFile(file).create("a", "embed", Limits())
    before = file.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        KeyFile(file).create("b", "embed", Limits())
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_keys_of_all_sources_count_and_an_entry_says_more_than_a_list(file: Path, tmp_path: Path) -> None:
    _, key = KeyFile(file).create("a", "embed", Limits())
    write_list(tmp_path / "api_keys.json", ["listed", key])
    known = KnownKeys(["given", key], keys_file=file, list_file=tmp_path / "api_keys.json")

    roles = {each: found.role if (found := known.find([each])) else None for each in ("given", "listed", key, "other")}
    assert roles == {"given": "admin", "listed": "admin", key: "embed", "other": None}


def test_a_change_counts_within_a_second(file: Path) -> None:
    known = KnownKeys([], keys_file=file)
    assert known.is_open

    _, key = KeyFile(file).create("a", "embed", Limits())
    wait_until(lambda: known.find([key]), within_s=3)
    assert not known.is_open

    KeyFile(file).revoke("a")
    wait_until(lambda: known.find([key]) is None, within_s=3)
    assert not known.is_open  # the last key is gone; the door stays shut


def test_two_changes_within_a_tick_of_the_clock_are_both_seen(tmp_path: Path, look_always: None) -> None:
    file = tmp_path / "api_keys.json"
    write_list(file, ["one"])
    known = KnownKeys([], list_file=file)
    stamp = file.stat().st_mtime_ns
    with file.open("r+") as sink:  # as long as before, at the same time, in the same place
        sink.write('["two"]')
    os.utime(file, ns=(stamp, stamp))

    assert known.find(["two"])
    assert not known.find(["one"])


@pytest.mark.parametrize(
    "content", ["", "{", '{"keys": 5}', '"a"', "[1]", '["a", ""]', "null", "[" * 100_000, " " * (MAX_FILE_BYTES + 1)]
)
def test_a_broken_file_keeps_the_last_good_one(tmp_path: Path, content: str, look_always: None) -> None:
    file = tmp_path / "api_keys.json"
    write_list(file, ["good"])
    known = KnownKeys([], list_file=file)

    write_list(file, content)
    assert known.find(["good"])
    file.unlink()
    assert known.find(["good"])
    write_list(file, ["better"])
    assert known.find(["better"])
    assert not known.find(["good"])


@pytest.mark.parametrize(
    "entry",
    [
        5,
        {},
        {"id": "a", "name": "n"},
        {"id": "a", "name": "n", "sha256": "short"},
        {"id": "a b", "name": "n", "sha256": "0" * 64},
        {"id": "a", "name": "n", "sha256": "0" * 64, "role": "king"},
        {"id": "a", "name": "n", "sha256": "0" * 64, "limits": {"jobs": -1}},
        {"id": "a", "name": "n", "sha256": "0" * 64, "limits": {"requests": 5}},
        {"id": "a", "name": "n", "sha256": "0" * 64, "limits": {"jobs": "5"}},
    ],
)
def test_a_wrong_entry_breaks_the_file_rather_than_give_a_key_too_much(file: Path, entry: Any) -> None:
    file.write_text(json.dumps({"keys": [entry]}))
    with pytest.raises(UnreadableKeys, match="entry 0"):
        KeyFile(file).entries()


def test_a_server_whose_file_is_broken_from_the_start_lets_nobody_in(file: Path, look_always: None) -> None:
    file.write_text("{")
    known = KnownKeys([], keys_file=file)
    assert not known.is_open
    assert known.find([""]) is None


def test_without_any_key_everybody_is_let_in(tmp_path: Path) -> None:
    write_list(tmp_path / "api_keys.json", [])
    assert KnownKeys([], keys_file=tmp_path / "no", list_file=tmp_path / "api_keys.json").is_open


@pytest.mark.parametrize(
    ("address", "is_private"),
    [
        ("127.0.0.1:80", True),
        ("127.1.2.3:80", True),
        ("localhost:80", True),
        ("[::1]:80", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("10.0.0.1:80", False),
        ("127.example.com:80", False),
    ],
)
def test_loopback_is_told_from_what_others_reach(address: str, is_private: bool) -> None:
    assert is_loopback(address) == is_private
