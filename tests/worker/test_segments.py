"""A segment gives back what was written, or says that it is damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.storage import DirectoryStorage
from tests.support.engine import hashed
from worker import segments as module
from worker.segments import Damaged, Kept, Segment, Segments, digest_of

TEXTS = [f"text {n}" for n in range(50)]


def kept(texts: list[str]) -> Kept:
    digests = np.frombuffer(b"".join(map(digest_of, texts)), np.uint8).reshape(-1, 16)
    tokens = np.arange(len(texts), dtype=np.int32)
    return Kept(digests, hashed(texts), tokens, tokens % 2 == 0).in_order()


@pytest.fixture
def segments(storage: DirectoryStorage) -> Segments:
    return Segments(storage, "cache/d")


def same(one: Kept, other: Kept) -> bool:
    pairs = ((one.digests, other.digests), (one.vectors, other.vectors), (one.tokens, other.tokens))
    return all(np.array_equal(a, b) for a, b in (*pairs, (one.truncated, other.truncated)))


def test_what_was_written_is_read(segments: Segments) -> None:
    written = kept(TEXTS)
    segment = segments.write(written)
    assert same(segments.read(segment), written)
    assert np.array_equal(segments.digests(segment), written.digests)
    assert segments.list() == [Segment(segment.name, pytest.approx(segment.written_at, abs=0.002), 50, segment.size)]


@pytest.mark.parametrize("gap_bytes", [0, 100, 10**6])
def test_some_rows_are_read_in_pieces(segments: Segments, monkeypatch: pytest.MonkeyPatch, gap_bytes: int) -> None:
    monkeypatch.setattr(module, "_GAP_BYTES", gap_bytes)
    monkeypatch.setattr(module, "_MAX_READ_BYTES", 500)
    written = kept(TEXTS)
    segment = segments.write(written)
    rows = np.array([0, 3, 4, 20, 49])
    seen = []
    for positions, found in segments.read_rows(segment, rows):
        assert same(found, written.take(rows[positions]))
        seen += positions.tolist()
    assert seen == [0, 1, 2, 3, 4]


def test_the_newest_is_listed_first_and_other_names_are_passed_over(segments: Segments, storage: DirectoryStorage) -> None:
    names = [segments.write(kept(["a"]), at).name for at in (1000.0, 3000.0, 2000.0)]
    storage.write("cache/d/README", b"")
    storage.write("cache/d/0000000f4240-3-7-0123456789abcdef", b"its numbers do not fit")
    assert [segment.name for segment in segments.list()] == [names[1], names[2], names[0]]


def test_a_deleted_segment_is_not_there(segments: Segments) -> None:
    segment = segments.write(kept(["a"]))
    segments.delete(segment)
    segments.delete(segment)
    assert segments.list() == []
    with pytest.raises(FileNotFoundError):
        segments.digests(segment)


def test_a_segment_under_the_name_of_another_is_told(segments: Segments, storage: DirectoryStorage) -> None:
    one, other = segments.write(kept(["a"])), segments.write(kept(["b"]))
    storage.write(f"cache/d/{one.name}", storage.read(f"cache/d/{other.name}") + b"more")
    with pytest.raises(Damaged):
        segments.read(one)


@given(data=st.data())
def test_a_flipped_bit_is_told_wherever_it_is(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    storage = DirectoryStorage(tmp_path_factory.mktemp("storage"))
    segments = Segments(storage, "d")
    segment = segments.write(kept(TEXTS[:3]))
    raw = bytearray(storage.read(f"d/{segment.name}"))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    storage.write(f"d/{segment.name}", bytes(raw))
    with pytest.raises(Damaged):
        segments.read(segment)
