"""Token ids of cl100k_base: read with tiktoken's own file, or clearly refused."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from shared.errors import InvalidParameter
from worker.token_ids import decode_cl100k

FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # where tiktoken keeps cl100k_base


@pytest.fixture
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def write(kept_in: Path, *tokens: bytes, first: int = 0) -> None:
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens, first)]
    (kept_in / FILE).write_bytes(b"".join(lines))


def test_ids_become_their_text(kept_in: Path) -> None:
    write(kept_in, b"Hello", b" world", "猫".encode()[:2], "猫".encode()[2:])

    assert decode_cl100k([[0, 1], [2, 3, 0], [2], []]) == ["Hello world", "猫Hello", "\ufffd", ""]


@pytest.mark.parametrize("wrong", [-1, 2])
def test_an_id_of_another_vocabulary_is_refused(kept_in: Path, wrong: int) -> None:
    write(kept_in, b"a", b"b")

    with pytest.raises(InvalidParameter, match="cl100k_base"):
        decode_cl100k([[0], [wrong]])


def test_without_the_file_ids_are_refused_and_nothing_is_downloaded(kept_in: Path) -> None:
    with pytest.raises(InvalidParameter, match="TIKTOKEN_CACHE_DIR") as refused:
        decode_cl100k([[0]])
    assert refused.value.param == "input"


def test_a_damaged_file_is_refused(kept_in: Path) -> None:
    write(kept_in, b"a", b"b", first=1)

    with pytest.raises(InvalidParameter, match="damaged"):
        decode_cl100k([[0]])
