"""CacheSweeper: small segments of the vector cache become large ones, old ones go, and so do the oldest when it is too large."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import numpy as np

from shared.errors import StorageAway
from shared.logs import get_logger
from shared.settings import Settings
from shared.storage import Storage
from worker.segments import Damaged, Kept, Segment, Segments, prefixes_of
from worker.threads import essential_thread
from worker.vector_cache import CACHE

logger = get_logger(__name__)

# A shard's vectors are a segment. Those below SMALL_BYTES are merged, MERGE_FROM or more of them, up to MAX_BYTES.
SMALL_BYTES = 32 * 2**20
MAX_BYTES = 64 * 2**20
MERGE_FROM = 8
# A merged segment is as old as its newest part: a vector may stay for so much longer than the settings say.
MAX_SPAN_S = 86_400.0


class CacheSweeper:
    """One thread, asleep until it is woken; the leader wakes its own, so that seldom two of them work at once.

    Should they, a vector stands in two segments for a while, which is harmless.
    """

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._expire_after_s = settings.cache_expire_after_s
        self._max_bytes = settings.cache_max_bytes
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = essential_thread(self._run, "cache-sweeper")

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def wake(self) -> None:
        """Sweep soon; a call while it sweeps makes it sweep once more."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread, after the segment it is at."""
        self._stopping.set()
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            if self._stopping.is_set():
                return
            try:
                self.sweep()
            except StorageAway as error:
                logger.warning("cache not swept", reason=str(error))
            except Exception:
                logger.exception("cache not swept")

    def sweep(self) -> None:
        """Once over everything. Raises StorageAway."""
        directories = {name: Segments(self._storage, f"{CACHE}/{name}") for name in self._storage.list(CACHE)}
        found = {name: segments.list() for name, segments in directories.items()}
        doomed = _doomed(found, time.time() - self._expire_after_s if self._expire_after_s else 0.0, self._max_bytes)
        for name, segment in doomed:
            directories[name].delete(segment)
        if doomed:
            logger.info("cache segments removed", segments=len(doomed), bytes=sum(segment.size for _, segment in doomed))
        gone = {segment.name for _, segment in doomed}
        for name, segments in directories.items():
            left = [segment for segment in found[name] if segment.name not in gone]
            if not left and not segments.list():
                self._storage.delete_tree(f"{CACHE}/{name}")  # of a model that is served no more
            for group in groups_to_merge(left):
                if self._stopping.is_set():
                    return
                _merge(segments, group)


def _doomed(found: dict[str, list[Segment]], before: float, max_bytes: int) -> list[tuple[str, Segment]]:
    """Segments to remove: those written before then (unix seconds), and the oldest of what is over `max_bytes`."""
    everything = [(name, segment) for name, segments in found.items() for segment in segments]
    everything.sort(key=lambda one: one[1].written_at, reverse=True)
    doomed, size = [], 0
    for name, segment in everything:
        size += segment.size
        if segment.written_at < before or size > max_bytes:
            doomed.append((name, segment))
    return doomed


def groups_to_merge(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Small segments that lie near each other in time, together at most MAX_BYTES; a group has at least MERGE_FROM."""
    group: list[Segment] = []
    for segment in sorted(segments, key=lambda segment: segment.written_at):
        if segment.size >= SMALL_BYTES:
            continue
        is_far = group and segment.written_at - group[0].written_at > MAX_SPAN_S
        if is_far or sum(other.size for other in group) + segment.size > MAX_BYTES:
            if len(group) >= MERGE_FROM:
                yield group
            group = []
        group.append(segment)
    if len(group) >= MERGE_FROM:
        yield group


def _merge(segments: Segments, group: list[Segment]) -> None:
    """One segment out of several, oldest first; the merged one lies there before the others go."""
    parts = []
    for segment in group:
        try:
            parts.append(segments.read(segment))
        except FileNotFoundError:
            continue  # another sweeper's
        except Damaged as error:
            logger.warning("damaged segment removed", segment=segment.name, reason=str(error))
    for dimensions in sorted({part.vectors.shape[1] for part in parts}):
        merged = _without_repeats([part for part in parts if part.vectors.shape[1] == dimensions])
        segments.write(merged, group[-1].written_at)
    for segment in group:
        segments.delete(segment)
    logger.info("cache segments merged", segments=len(group), rows=sum(map(len, parts)))


def _without_repeats(parts: list[Kept]) -> Kept:
    digests = np.concatenate([part.digests for part in parts])
    # The index tells texts by as much as this.
    stays = np.unique(prefixes_of(digests), return_index=True)[1]
    return (
        Kept(
            digests,
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.truncated for part in parts]),
        )
        .take(stays)
        .in_order()
    )
