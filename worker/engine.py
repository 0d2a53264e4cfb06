"""The engine: it owns a device and its models. Requests of both lanes go in, vectors come out of their futures.

One thread tokenizes ahead of the device, interactive requests first and long ones in slices; a question is tokenized by
whoever brings it, if that thread has nothing to do just then. One or more stream threads each take the next batch from the
batcher, run it, and put the vectors where their request gathers them. A loader thread brings the models in (residency).
Threads sleep until there is something for them; one that dies takes the process along.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from shared import metrics
from shared.errors import DeadlinePassed, EngineFailed, InvalidParameter, UmekomiError, Unavailable
from shared.logs import get_logger
from shared.models import ModelConfig, ModelRegistry
from shared.presence import ModelPresence, ModelState
from shared.settings import Settings
from worker.backends import LoadOptions, load_backend
from worker.backends.devices import cores, resolve_device
from worker.batcher import ASSUMED_TOKENS_PER_S, Batch, Batcher, Lane
from worker.counts import count_batch, count_request
from worker.downloads import Downloads
from worker.forward import embed_rows
from worker.identity import Identity
from worker.loader import Load
from worker.residency import Residency, Unloaded, bounds_of
from worker.threads import essential_thread, exit_process
from worker.work import Embedded, EmbedRequest, Withdrawn, Work

__all__ = ["EmbedRequest", "Embedded", "Engine", "Lane"]

logger = get_logger(__name__)

# Padded tokens of one batch where the settings say 0. On a CPU bigger ones are slower: they leave the cache.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 16_384
# An ask is due later by so many times what it costs the device: a short one overtakes a long one, but not for ever.
STRETCH = 10.0
# Asks without a deadline have their place as if it were this one.
DEFAULT_PATIENCE_S = 30.0
# A question that is alone has so many cores at most: more would wait for each other longer than they compute.
LONE_THREADS = 4
# So many batches of asks a stream keep a worker busy; more of them better wait in Redis if another worker can take them.
AMPLE_BATCHES = 4

LANES: tuple[Lane, ...] = ("interactive", "bulk")


class Engine:
    """One device. Thread-safe; `submit` never waits for the device."""

    def __init__(
        self,
        settings: Settings,
        registry: ModelRegistry,
        *,
        load: Load = load_backend,
        downloads: Downloads | None = None,
        on_death: Callable[[], None] = exit_process,
    ) -> None:
        self.device = resolve_device(settings.device)
        is_cpu = self.device == "cpu"
        usable = settings.threads or cores()
        self._streams = settings.streams or (usable if is_cpu else 1)
        self._threads_of_a_stream = max(1, usable // self._streams)
        self._lone_threads = min(LONE_THREADS, usable)
        self._engines, self._varlen = settings.engines, settings.varlen
        self._max_batch_tokens = settings.max_batch_tokens or (CPU_BATCH_TOKENS if is_cpu else GPU_BATCH_TOKENS)
        self._registry = registry
        # One lock for everything below. While it is held no future is resolved and no model is called.
        self._lock = threading.Lock()
        self._to_tokenize = threading.Condition(self._lock)
        self._to_run = threading.Condition(self._lock)
        self._reading = threading.Lock()  # held by the one thread that tokenizes
        self._bringing = threading.local()
        self._batcher: Batcher[Work] = Batcher(
            max_batch_tokens=self._max_batch_tokens,
            batch_target_s=settings.batch_target_ms / 1000,
            bulk_share=settings.bulk_share,
            max_tokens_of={config.name: config.batch.max_tokens for config in registry if config.batch.max_tokens},
        )
        self._batch_target_s = settings.batch_target_ms / 1000
        self._works: set[Work] = set()  # all that are not over
        self._unread: dict[Lane, list[tuple[float, int, Work]]] = {lane: [] for lane in LANES}  # heaps by due
        self._unread_tokens: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self._parked: dict[str, list[Work]] = {}  # by model, until it is loaded
        self._sequence = 0
        self._running = 0
        self._batches: dict[int, tuple[str, float]] = {}  # those that run: by thread, its model and since when (monotonic)
        self._progress_at = time.monotonic()
        self._is_stopping = False
        self._residency = Residency(
            registry,
            self._options,
            on_change=self._unpark,
            on_death=on_death,
            load=load,
            downloads=downloads,
            bounds=bounds_of(settings),
            idle_s=settings.watchdog_idle_timeout_s if settings.watchdog_idle else None,
        )
        self._threads = [
            essential_thread(self._tokenize, "tokenizer", on_death),
            *(essential_thread(self._stream, f"stream-{number}", on_death) for number in range(self._streams)),
        ]

    def start(self) -> None:
        """Start the threads and begin to load the models with `preload: true`."""
        self._residency.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the batches that run, fail whatever waits with Unavailable, join the threads, close the models."""
        with self._lock:
            self._is_stopping = True
            for condition in (self._to_tokenize, self._to_run):
                condition.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for work in list(self._works):
            self._fail(work, Unavailable("this worker is stopping"))
        self._residency.stop()

    def submit(self, request: EmbedRequest) -> Future[Embedded]:
        """Always answered: with vectors and errors by row, or with one exception for all.

        That is InvalidParameter (dimensions, prompt name, token ids), ModelNotReady, DeadlinePassed or Unavailable.
        Cancelling the future drops what is in no batch yet.
        """
        try:
            work = Work(request, arrived_at=time.monotonic())
        except TypeError:
            # An ask is read from Redis: a malformed one is its own error, not that of the thread that brought it.
            refused: Future[Embedded] = Future()
            refused.set_exception(InvalidParameter("the input must be strings or lists of token ids", param="input"))
            return refused
        is_late = work.deadline is not None and work.deadline <= time.time()  # then it is not read at all
        is_read_here = work.is_question and not is_late and self._reading.acquire(blocking=False)
        try:
            with self._lock:
                is_refused = self._is_stopping
                if not is_refused:
                    self._place(work)
                    self._works.add(work)
                    self._unread_tokens[work.lane] += work.unread_tokens
                    self._notice(work)
                    if not is_read_here:
                        self._queue(work)
            if is_refused:
                work.future.set_exception(Unavailable("this worker is stopping"))
            else:
                work.future.add_done_callback(lambda future: future.cancelled() and self._end(work))
                if is_read_here:
                    self._read(work)
        finally:
            if is_read_here:
                self._reading.release()
        return work.future

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread submits meanwhile goes to the device when the last of it is there: in one batch, if it fits."""
        self._bringing.is_on = True
        try:
            yield
        finally:
            self._bringing.is_on = False
            with self._lock:
                if len(self._batcher):
                    self._to_run.notify()

    def withdraw(self, models: Collection[str]) -> None:
        """Fail with Withdrawn the asks of these models of which no row is in a batch yet."""
        with self._lock:
            unbegun = [work for work in self._works if work.lane == "interactive" and work.began_at is None]
        for work in unbegun:
            if work.model in models:
                self._fail(work, Withdrawn("this worker is stopping", retry_after_s=1))

    def presence(self) -> dict[str, ModelPresence]:
        """Every model by name: how it stands and what it is."""
        with self._lock:
            rates = {config.name: self._batcher.tokens_per_s(config.name) for config in self._registry}
        # A stream's rate was measured while the others ran, so the device does as often as much.
        return self._residency.presence({name: rate * self._streams for name, rate in rates.items() if rate is not None})

    def model_states(self) -> dict[str, ModelState]:
        """Every model by name: how it stands, and no more, for those who look at each turn."""
        return self._residency.model_states()

    def replace_registry(self, registry: ModelRegistry) -> None:
        """Serve these models from now on. What is in the engine is answered; a changed or removed model leaves after it."""
        with self._lock:
            self._registry = registry
            self._batcher.limit_batches({config.name: config.batch.max_tokens for config in registry if config.batch.max_tokens})
        self._residency.replace(registry)

    def load(self, model: str, within_s: float) -> ModelPresence:
        """Load a model as a request would, and wait for it; how it stands then. Raises ModelNotFound."""
        return self._residency.load(model, time.monotonic() + within_s)

    def unload(self, model: str, within_s: float) -> Unloaded:
        """Give a model's memory back, once nobody uses it; it loads again at its next use."""
        return self._residency.unload(model, time.monotonic() + within_s)

    def identity(self, model: str) -> Identity | None:
        """What exactly was loaded last under this name; None before the first load."""
        return self._residency.identity(model)

    def waiting_tokens(self) -> dict[str, int]:
        """By lane; texts that are not tokenized yet are estimated."""
        with self._lock:
            return {lane: self._waiting(lane) for lane in LANES}

    @property
    def ample_tokens(self) -> int:
        """Tokens of asks that keep every stream busy for a few batches."""
        return AMPLE_BATCHES * self._max_batch_tokens * self._streams

    def is_stuck(self, after_s: float) -> bool:
        """Whether there is work, not counting what waits for a model to load, and nothing came of it for so long."""
        with self._lock:
            return self._is_busy() and time.monotonic() - self._progress_at > after_s

    def longest_batch(self) -> tuple[str, float] | None:
        """Of the batches that run now the one that began first: its model, and for how many seconds it runs."""
        with self._lock:
            if not self._batches:
                return None
            model, began_at = min(self._batches.values(), key=lambda batch: batch[1])
            return model, time.monotonic() - began_at

    # The life of a request

    def _place(self, work: Work) -> None:
        """Its line, and when it is due. Asks: oldest deadline first, a long one's counted as later. Bulk: oldest first."""
        now = time.time()
        if work.lane == "bulk":
            work.line, work.due = "bulk", now
            return
        deadline = now + DEFAULT_PATIENCE_S if work.deadline is None else work.deadline
        cost_s = work.unread_tokens / (self._batcher.tokens_per_s(work.model) or ASSUMED_TOKENS_PER_S)
        work.line = "short" if cost_s <= self._batch_target_s else "long"
        work.due = deadline + STRETCH * cost_s / self._streams

    def _notice(self, work: Work) -> None:
        """It is here; the lock is held."""
        if not self._is_busy():
            self._progress_at = time.monotonic()
        work.is_unread = True

    def _queue(self, work: Work) -> None:
        """To the tokenizer; the lock is held."""
        self._sequence += 1
        heapq.heappush(self._unread[work.lane], (work.due, self._sequence, work))
        self._to_tokenize.notify()

    def _settle(self, work: Work, rows: int) -> None:
        """So many more rows have their vector or error; with the last ones the request is answered."""
        with self._lock:
            work.open_rows -= rows
            if work.open_rows > 0:
                return
        if self._end(work) and work.future.set_running_or_notify_cancel():
            answer = work.answer(time.monotonic())
            work.future.set_result(answer)
            count_request(work, answer)

    def _fail(self, work: Work, error: UmekomiError) -> None:
        if self._end(work) and work.future.set_running_or_notify_cancel():
            work.future.set_exception(error)

    def _end(self, work: Work) -> bool:
        """Take the request out of everything; True for the one call that did it, which may resolve the future."""
        with self._lock:
            if work.is_over:
                return False
            work.is_over, work.is_unread = True, False
            self._works.discard(work)
            self._unread_tokens[work.lane] -= work.unread_tokens
            work.unread_tokens = 0
            self._batcher.remove(work)
        if work.backend is not None:
            self._residency.release(work.model)
        return True

    # The tokenizer's thread

    def _tokenize(self) -> None:
        while True:
            with self._lock:
                while not self._is_stopping:
                    late, work = self._late_unread(), self._next_unread()
                    if late or work is not None:
                        break
                    self._to_tokenize.wait(self._patience_of_parked())
                else:
                    return
            self._fail_late(late)
            if work is not None:
                with self._reading:
                    self._read(work)

    def _read(self, work: Work) -> None:
        """Tokenize a slice of a request. Whatever goes wrong with it is its own error."""
        try:
            if not work.is_open and not self._open(work):
                return
            rows, refused = work.read_slice()
        except UmekomiError as error:
            self._fail(work, error)
            return
        except Exception as error:
            logger.exception("request not read", model=work.model, lane=work.lane)
            self._fail(work, EngineFailed(f"the request could not be read ({type(error).__name__})"))
            return
        with self._lock:
            self._progress_at = time.monotonic()
            if work.is_over:
                return
            self._unread_tokens[work.lane] -= work.unread_tokens
            work.unread_tokens = work.unread_estimate()
            self._unread_tokens[work.lane] += work.unread_tokens
            work.is_unread = not work.is_read
            self._batcher.add(rows, time.time())
            if rows and not getattr(self._bringing, "is_on", False):
                self._to_run.notify()
        self._settle(work, refused)

    def _open(self, work: Work) -> bool:
        """Get the model. False if it loads: then the request is parked. Raises ModelNotReady, InvalidParameter."""
        with self._lock:
            # Both under the lock: a load that ends in between finds the request parked.
            backend = work.backend
            if backend is None:
                backend = self._residency.acquire(work.request.model)
                if backend is not None and work.is_over:
                    self._residency.release(work.model)
            if backend is None:
                self._residency.check_in_time(work.model, work.deadline)
                work.is_unread = False
                self._parked.setdefault(work.model, []).append(work)
                self._to_tokenize.notify()  # that thread watches over the deadlines of those that are parked
                return False
            if work.is_over:
                return False
            work.backend = backend
        work.open(backend)
        return True

    def _unpark(self, model: str) -> None:
        """A load ended, well or not: who waited for it finds out."""
        with self._lock:
            for work in self._parked.pop(model, []):
                if not work.is_over:
                    # Held from here on: the model may be wanted gone again before the request is read.
                    work.backend = self._residency.claim(model)
                    self._notice(work)
                    self._queue(work)

    def _next_unread(self) -> Work | None:
        for heap in (self._unread[lane] for lane in LANES):
            while heap and not heap[0][2].is_unread:
                heapq.heappop(heap)
            if heap:
                return heap[0][2]
        return None

    def _late_unread(self) -> list[Work]:
        """Requests whose deadline passed while they were parked, or before they were looked at."""
        now = time.time()
        first = [heap[0][2] for heap in self._unread.values() if heap]
        return [work for work in [*first, *self._all_parked()] if work.deadline is not None and work.deadline <= now]

    def _patience_of_parked(self) -> float | None:
        deadlines = [work.deadline for work in self._all_parked() if work.deadline is not None]
        return max(0.0, min(deadlines) - time.time()) if deadlines else None

    def _all_parked(self) -> Iterable[Work]:
        return (work for works in self._parked.values() for work in works if not work.is_over)

    # The streams' threads

    def _stream(self) -> None:
        while True:
            with self._lock:
                while not self._is_stopping:
                    now = time.time()
                    late, batch = self._batcher.overdue(now), self._batcher.next_batch(now)
                    if late or batch is not None:
                        break
                    self._to_run.wait()
                else:
                    return
                if batch is not None:
                    self._begin(batch)
                if len(self._batcher):
                    self._to_run.notify()  # there is something for another stream too
            self._fail_late(late)
            if batch is not None:
                self._run(batch)

    def _begin(self, batch: Batch[Work]) -> None:
        """A batch leaves the batcher; the lock is held."""
        self._running += 1
        self._residency.hold(batch.model)
        began_at = time.monotonic()
        self._batches[threading.get_ident()] = batch.model, began_at
        for row in batch.rows:
            if row.request.began_at is None:
                row.request.began_at = began_at

    def _run(self, batch: Batch[Work]) -> None:
        backend = batch.rows[0].request.backend
        assert backend is not None, "a row is made by its model's tokenizer"
        too_many: list[int] = []
        began_at = time.monotonic()
        outcomes = embed_rows(backend, [row.text for row in batch.rows], too_many.append)
        ended_at = time.monotonic()
        self._residency.release(batch.model)
        is_clean = not too_many and not any(isinstance(outcome, UmekomiError) for outcome in outcomes)
        for row, outcome in zip(batch.rows, outcomes, strict=True):
            row.request.accept(row.position, outcome)
        with self._lock:
            self._running -= 1
            del self._batches[threading.get_ident()]
            self._progress_at = ended_at
            if is_clean and batch.tells_the_pace:
                self._batcher.measured(batch.model, batch.padded_tokens, ended_at - began_at)
            if too_many:
                longest = batch.padded_tokens // len(batch.rows)
                self._batcher.limit(batch.model, min(too_many) * longest // 2)
        if too_many:
            metrics.OUT_OF_MEMORY.inc(len(too_many), batch.model)
            logger.warning("device out of memory, batches halved", model=batch.model, rows=min(too_many))
        for work, rows in Counter(row.request for row in batch.rows).items():
            self._settle(work, rows)
        count_batch(batch, outcomes, ended_at - began_at)  # once nobody waits for it

    # Shared

    def _options(self, config: ModelConfig) -> LoadOptions:
        return LoadOptions(
            device=config.device or self.device,
            threads=config.threads or self._threads_of_a_stream,
            lone_threads=0 if config.threads else self._lone_threads,
            engines=self._engines,
            varlen=self._varlen,
        )

    def _fail_late(self, works: Iterable[Work]) -> None:
        for work in works:
            self._fail(work, DeadlinePassed("the deadline passed before the text came to the model"))

    def _waiting(self, lane: Lane) -> int:
        return self._unread_tokens[lane] + self._batcher.waiting_tokens(lane)

    def _is_busy(self) -> bool:
        return self._running > 0 or len(self._batcher) > 0 or any(heap for heap in self._unread.values())
