"""VectorCache: vectors that are not made twice. They lie in segments in storage; a worker keeps an index of each directory.

Storage is the truth and several workers share it: whatever is not found, damaged, gone or not to be read is a miss, and
the text is embedded. Within one process a text that is being embedded is waited for.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from shared.errors import StorageAway, UmekomiError
from shared.logs import get_logger
from shared.storage import Storage
from worker.cache_index import ROW_BYTES, CacheIndex
from worker.segments import DIGEST_BYTES, Damaged, Digests, Ints, Kept, Segment, Segments, digest_of
from worker.work import Embedded

logger = get_logger(__name__)

CACHE = "cache"  # where the directories of all jobs together lie
# Segments read side by side: on an object store each is a round trip. A piece is at most 8 MiB.
READERS = 8
# Listing a directory takes at most one part in so many of the time.
LISTING_SHARE = 10


class ModelChanged(Exception):
    """The model was loaded anew, from other files, while its vectors were looked up and made."""


class Asker(Protocol):
    """How a shard comes by vectors, and waits for those that another shard is making."""

    def ask(self, texts: Sequence[str]) -> Embedded:
        """From the model. Raises what the engine does, and CancelledError; ModelChanged if it is not the directory's."""

    def wait(self, future: Future[Landed | None]) -> Landed | None:
        """Until another shard has its vectors. Raises CancelledError."""


@dataclass(frozen=True, slots=True)
class Reused:
    """What became of the texts, and how many vectors were not made for them."""

    embedded: Embedded
    deduplicated: int


@dataclass(frozen=True, slots=True)
class Landed:
    """What a shard has when it has looked up and embedded its texts: the vectors of those without an error."""

    rows: dict[bytes, int]
    kept: Kept


@dataclass(slots=True)
class _Flight:
    """Texts that one shard looks up and embeds; other shards of this process wait for it."""

    future: Future[Landed | None] = field(default_factory=Future)

    def land(self, landed: Landed | None) -> None:
        """Once; later calls change nothing."""
        if not self.future.done():
            self.future.set_result(landed)

    def follow(self) -> Future[Landed | None]:
        """A future of one's own: to cancel it is nobody else's business."""
        mine: Future[Landed | None] = Future()

        def pass_on(flight: Future[Landed | None]) -> None:
            if mine.set_running_or_notify_cancel():
                mine.set_result(flight.result())

        self.future.add_done_callback(pass_on)
        return mine


@dataclass(slots=True)
class _Directory:
    """What this process knows of the segments of one directory."""

    segments: Segments
    index: CacheIndex = field(default_factory=CacheIndex)
    lock: threading.Lock = field(default_factory=threading.Lock)
    fresh_until: float = 0.0  # monotonic seconds


class VectorCache:
    """Of one process. Thread-safe."""

    def __init__(self, storage: Storage, memory_bytes: int) -> None:
        """`memory_bytes`: of all indexes together; of one that is larger the newest segments are known."""
        self._storage = storage
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._directories: OrderedDict[str, _Directory] = OrderedDict()  # the least recently used first
        self._flights: dict[tuple[str, bytes], _Flight] = {}

    def embed(self, directory: str | None, texts: Sequence[str], asker: Asker) -> Reused:
        """Every text's vector, in order: equal texts are embedded once, and those of the directory not at all.

        Without a directory nothing is looked up or kept. Raises what `asker` does.
        """
        first: dict[bytes, int] = {}
        which = np.array([first.setdefault(digest_of(text), len(first)) for text in texts], np.int64)
        different = np.unique(which, return_index=True)[1].tolist()
        sheet = _Sheet(list(first), [texts[position] for position in different])
        if directory is None:
            sheet.put_embedded(range(len(sheet)), asker.ask(sheet.texts))
        while is_open := sheet.open():
            self._settle(str(directory), sheet, is_open, asker)
        return sheet.spread(which)

    def _settle(self, directory: str, sheet: _Sheet, positions: list[int], asker: Asker) -> None:
        """Fly with what nobody else flies with, and only then wait for the others: so nobody waits for one who waits."""
        flight = _Flight()
        mine: list[int] = []
        others: dict[int, tuple[_Flight, list[int]]] = {}
        with self._lock:
            for position in positions:
                other = self._flights.setdefault((directory, sheet.digests[position]), flight)
                if other is flight:
                    mine.append(position)
                else:
                    others.setdefault(id(other), (other, []))[1].append(position)
        try:
            if mine:
                self._fly(directory, sheet, mine, asker, flight)
        finally:
            flight.land(None)
            with self._lock:
                for position in mine:
                    del self._flights[directory, sheet.digests[position]]
        for other, waiting in others.values():
            landed = asker.wait(other.follow())
            if landed is not None:
                sheet.put_landed(waiting, landed)

    def _fly(self, directory: str, sheet: _Sheet, mine: list[int], asker: Asker, flight: _Flight) -> None:
        known = self._known(directory)
        for positions, kept in self._recall(known, sheet.digest_array(mine)):
            sheet.put_kept([mine[position] for position in positions], kept)
        missing = sheet.open(mine)
        if missing:
            sheet.put_embedded(missing, asker.ask([sheet.texts[position] for position in missing]))
        flight.land(sheet.landed(mine))
        if made := sheet.without_error(missing):
            self._keep(known, sheet.kept(made))

    # Reading

    def _known(self, directory: str) -> _Directory:
        with self._lock:
            known = self._directories.setdefault(directory, _Directory(Segments(self._storage, directory)))
            self._directories.move_to_end(directory)
            spare = sum(other.index.size for other in self._directories.values()) - self._memory_bytes
            while spare > 0 and len(self._directories) > 1:
                spare -= self._directories.popitem(last=False)[1].index.size
        return known

    def _refresh(self, known: _Directory, *, now: bool = False) -> None:
        """Learn which segments there are. Raises StorageAway."""
        with known.lock:
            began_at = time.monotonic()
            if began_at < known.fresh_until and not now:
                return
            wanted, room = [], self._memory_bytes // ROW_BYTES
            for segment in known.segments.list():
                room -= segment.rows
                if room < 0:
                    break
                wanted.append(segment)
            listing_s = time.monotonic() - began_at
            known.index.keep(wanted)
            new = [segment for segment in reversed(wanted) if segment not in known.index]
            for segment, digests in _side_by_side(lambda segment: (segment, self._digests(known, segment)), new):
                if digests is not None:
                    known.index.add(segment, digests)
            known.fresh_until = time.monotonic() + listing_s * (LISTING_SHARE - 1)

    def _digests(self, known: _Directory, segment: Segment) -> Digests | None:
        try:
            return known.segments.digests(segment)
        except FileNotFoundError:
            return None
        except Damaged as error:
            self._remove(known, segment, error)
            return None

    def _recall(self, known: _Directory, digests: Digests) -> Iterator[tuple[Ints, Kept]]:
        """Positions whose vectors lie in segments, and these; piece by piece."""
        is_open = np.ones(len(digests), np.bool_)
        try:
            for is_second_look in (False, True):
                self._refresh(known, now=is_second_look)
                was_gone = False
                reads = known.index.find(digests[is_open])
                numbers = np.flatnonzero(is_open)
                for found in _side_by_side(lambda read: self._read(known, *read), reads):
                    if found is None:
                        was_gone = True  # merged into another, or expired
                        continue
                    for positions, kept in found:
                        asked = numbers[positions]
                        same = (kept.digests == digests[asked]).all(axis=1)
                        is_open[asked[same]] = False
                        yield asked[same], kept.take(same)
                if not was_gone:
                    return
        except StorageAway as error:
            logger.warning("cache not read", reason=str(error))

    def _read(self, known: _Directory, segment: Segment, rows: Ints, positions: Ints) -> list[tuple[Ints, Kept]] | None:
        """What of a segment could be read; None if it is gone."""
        found = []
        try:
            for piece, kept in known.segments.read_rows(segment, rows):
                found.append((positions[piece], kept))
        except FileNotFoundError:
            return found or None
        except Damaged as error:
            self._remove(known, segment, error)
        return found

    def _remove(self, known: _Directory, segment: Segment, error: Damaged) -> None:
        logger.warning("damaged segment removed", segment=segment.name, reason=str(error))
        try:
            known.segments.delete(segment)
        except StorageAway:
            pass  # it is found again
        known.fresh_until = 0.0  # and forgotten at the next look

    # Writing

    def _keep(self, known: _Directory, kept: Kept) -> None:
        try:
            kept = kept.in_order()
            segment = known.segments.write(kept)
            with known.lock:
                known.index.add(segment, kept.digests)
        except StorageAway as error:
            logger.warning("vectors not kept", rows=len(kept), reason=str(error))


class _Sheet:
    """Different texts, and what is known of each so far."""

    def __init__(self, digests: list[bytes], texts: list[str]) -> None:
        self.digests = digests
        self.texts = texts
        self._is_open = np.ones(len(texts), np.bool_)
        self._was_made = np.zeros(len(texts), np.bool_)
        self._vectors = np.zeros((len(texts), 0), np.float32)
        self._tokens = np.zeros(len(texts), np.int32)
        self._truncated = np.zeros(len(texts), np.bool_)
        self._errors: dict[int, UmekomiError] = {}
        self._queue_s = self._embed_s = 0.0

    def __len__(self) -> int:
        return len(self.texts)

    def open(self, of: list[int] | None = None) -> list[int]:
        """Texts without an outcome."""
        positions = np.flatnonzero(self._is_open) if of is None else np.array(of, np.int64)
        found: list[int] = positions[self._is_open[positions]].tolist()
        return found

    def digest_array(self, positions: Sequence[int]) -> Digests:
        raw = b"".join(self.digests[position] for position in positions)
        return np.frombuffer(raw, np.uint8).reshape(-1, DIGEST_BYTES)

    def put_kept(self, positions: Sequence[int], kept: Kept) -> None:
        if self._vectors.shape[1] in (0, kept.vectors.shape[1]):
            self._put(np.array(positions, np.int64), kept.vectors, kept.tokens, kept.truncated)

    def put_landed(self, positions: Sequence[int], landed: Landed) -> None:
        known = [position for position in positions if self.digests[position] in landed.rows]
        if known:
            self.put_kept(known, landed.kept.take([landed.rows[self.digests[position]] for position in known]))

    def put_embedded(self, positions: Sequence[int], embedded: Embedded) -> None:
        at = np.array(positions, np.int64)
        if self._vectors.shape[1] not in (0, embedded.vectors.shape[1]):
            raise ModelChanged
        self._put(at, embedded.vectors, embedded.tokens, embedded.truncated)
        self._was_made[at] = True
        self._errors |= {positions[number]: error for number, error in embedded.errors.items()}
        self._queue_s += embedded.queue_s
        self._embed_s += embedded.embed_s

    def _put(self, at: Ints, vectors: Any, tokens: Any, truncated: Any) -> None:
        if not len(at):
            return
        if not self._vectors.shape[1]:
            self._vectors = np.zeros((len(self), vectors.shape[1]), np.float32)
        self._vectors[at], self._tokens[at], self._truncated[at] = vectors, tokens, truncated
        self._is_open[at] = False

    def without_error(self, positions: Sequence[int]) -> list[int]:
        """Those that have a vector."""
        return [position for position in positions if position not in self._errors]

    def kept(self, positions: Sequence[int]) -> Kept:
        at = np.array(positions, np.int64)
        return Kept(self.digest_array(positions), self._vectors[at], self._tokens[at], self._truncated[at])

    def landed(self, positions: Sequence[int]) -> Landed:
        good = self.without_error(positions)
        return Landed({self.digests[position]: row for row, position in enumerate(good)}, self.kept(good))

    def spread(self, which: Ints) -> Reused:
        """The outcome of every text, given which of the different ones it is."""
        errors = {row: self._errors[number] for row, number in enumerate(which.tolist()) if number in self._errors}
        made = int(self._was_made.sum()) - len(self._errors)
        embedded = Embedded(
            vectors=self._vectors[which],
            tokens=self._tokens[which],
            truncated=self._truncated[which],
            errors=errors,
            queue_s=self._queue_s,
            embed_s=self._embed_s,
        )
        return Reused(embedded, len(which) - len(errors) - made)


def _side_by_side(read: Callable[[Any], Any], things: Sequence[Any]) -> Iterator[Any]:
    if len(things) < 2:
        yield from map(read, things)
        return
    with ThreadPoolExecutor(min(READERS, len(things)), thread_name_prefix="cache") as pool:
        yield from pool.map(read, things)
