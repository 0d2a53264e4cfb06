"""The sweeper keeps the cache small in number, in size and in age, and loses no vector that is to stay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.engine import hashed
from tests.support.waiting import wait_until
from tests.worker.test_segments import kept
from worker import cache_sweeper
from worker.cache_sweeper import MAX_BYTES, MAX_SPAN_S, MERGE_FROM, SMALL_BYTES, CacheSweeper, groups_to_merge
from worker.segments import Segment, Segments, digest_of

DAY_S = 86_400.0


@pytest.fixture
def segments(storage: DirectoryStorage) -> Segments:
    return Segments(storage, "cache/d")


def sweeper(storage: DirectoryStorage, tmp_path: Path, **settings: Any) -> CacheSweeper:
    return CacheSweeper(storage, Settings(data_dir=tmp_path, **settings))


def test_many_small_segments_become_one_with_all_their_vectors(
    segments: Segments, storage: DirectoryStorage, tmp_path: Path
) -> None:
    now = time.time()
    for number in range(MERGE_FROM):
        segments.write(kept([f"text {number}", "everywhere"]), now - 100 + number)
    sweeper(storage, tmp_path).sweep()
    (merged,) = segments.list()
    assert merged.rows == MERGE_FROM + 1
    assert merged.written_at == pytest.approx(now - 100 + MERGE_FROM - 1, abs=0.01)
    content = segments.read(merged)
    rows = {digest.tobytes(): vector.tolist() for digest, vector in zip(content.digests, content.vectors, strict=True)}
    for text in ["everywhere", *(f"text {number}" for number in range(MERGE_FROM))]:
        assert rows[digest_of(text)] == hashed([text])[0].tolist()


def test_a_damaged_segment_is_left_out_of_the_merged_one(segments: Segments, storage: DirectoryStorage, tmp_path: Path) -> None:
    written = [segments.write(kept([f"text {number}"])) for number in range(MERGE_FROM)]
    storage.write(f"cache/d/{written[0].name}", b"damaged")
    sweeper(storage, tmp_path).sweep()
    (merged,) = segments.list()
    assert merged.rows == MERGE_FROM - 1


def test_old_segments_go_and_empty_directories_with_them(segments: Segments, storage: DirectoryStorage, tmp_path: Path) -> None:
    other = Segments(storage, "cache/e")
    now = time.time()
    segments.write(kept(["a"]), now - 3 * DAY_S)
    young = other.write(kept(["b"]), now - DAY_S)
    sweeper(storage, tmp_path, cache_expire_after_s=0).sweep()
    assert storage.list("cache") == ["d", "e"]
    sweeper(storage, tmp_path, cache_expire_after_s=2 * DAY_S).sweep()
    assert storage.list("cache") == ["e"]
    assert [segment.name for segment in other.list()] == [young.name]


def test_of_too_much_the_oldest_goes(segments: Segments, storage: DirectoryStorage, tmp_path: Path) -> None:
    now = time.time()
    written = [segments.write(kept(["a"]), now - age) for age in (1, 3, 2)]
    sweeper(storage, tmp_path, cache_max_bytes=2 * written[0].size).sweep()
    assert [segment.name for segment in segments.list()] == [written[0].name, written[2].name]


def made(size: int, written_at: float = 0.0) -> Segment:
    return Segment(f"{written_at}-{size}", written_at, 1, size)


def test_large_segments_few_ones_and_those_of_other_days_are_not_merged() -> None:
    assert list(groups_to_merge([made(SMALL_BYTES)] * 20)) == []
    assert list(groups_to_merge([made(1)] * (MERGE_FROM - 1))) == []
    apart = [made(1, number * (MAX_SPAN_S + 1)) for number in range(20)]
    assert list(groups_to_merge(apart)) == []
    assert [len(group) for group in groups_to_merge([made(1)] * 20)] == [20]
    sizes = [sum(one.size for one in group) for group in groups_to_merge([made(SMALL_BYTES // 5)] * 40)]
    assert len(sizes) == 4
    assert max(sizes) <= MAX_BYTES


def test_it_sweeps_when_it_is_woken_and_ends_when_it_is_told(
    segments: Segments, storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_sweeper, "MERGE_FROM", 2)
    one = sweeper(storage, tmp_path)
    one.start()
    for text in "ab":
        segments.write(kept([text]))
    one.wake()
    wait_until(lambda: len(segments.list()) == 1)
    one.stop()
