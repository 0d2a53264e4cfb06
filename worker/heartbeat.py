"""Heartbeat: once a second the worker says what it is, keeps its leases, and looks what changed around it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable

from redis.exceptions import RedisError

from shared import metrics
from shared.build import umekomi_version
from shared.errors import StorageAway
from shared.logs import get_logger
from shared.presence import BEAT_S, LaneDone, PresenceBoard, ShardPresence, WorkerPresence
from worker.bulk import ShardRunner
from worker.engine import LANES, Engine
from worker.interactive import AskLoop
from worker.threads import essential_thread, exit_process

logger = get_logger(__name__)

# A batch lasts well under a second, a load does not count: an engine that ended none for so long is not coming back.
STUCK_AFTER_S = 120.0


class Heartbeat:
    """One thread. Only a moving engine renews the presence: one that hangs counts as dead, and others take over its asks."""

    def __init__(
        self,
        board: PresenceBoard,
        engine: Engine,
        asks: AskLoop,
        shards: ShardRunner,
        worker_id: str,
        started_at: float,
        shards_at_once: int,
        *,
        busy_timeout_s: float | None = None,
        on_stuck: Callable[[], None] = exit_process,
    ) -> None:
        """`busy_timeout_s`: a batch that runs for so long hangs, and `on_stuck` is to end the process; None: never."""
        self._board = board
        self._engine = engine
        self._asks = asks
        self._shards = shards
        self._worker_id = worker_id
        self._started_at = started_at
        self._version = umekomi_version()
        self._shards_at_once = shards_at_once
        self._busy_timeout_s = busy_timeout_s
        self._on_stuck = on_stuck
        self._draining = False
        self._stopping = threading.Event()
        self._thread = essential_thread(self._run, "heartbeat")

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def drain(self) -> None:
        """Go on beating, but say that nothing new is taken."""
        self._draining = True

    def stop(self) -> None:
        """End the thread and take the presence away."""
        self._stopping.set()
        self._thread.join()
        try:
            self._board.leave(self.presence())
        except RedisError:
            pass  # it expires by itself

    def presence(self) -> WorkerPresence:
        """What this worker says of itself."""
        models = self._engine.presence()
        return WorkerPresence(
            id=self._worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._engine.device,
            started_at=self._started_at,
            shards_at_once=self._shards_at_once,
            models=models,
            waiting_tokens=self._engine.waiting_tokens(),
            shards=tuple(
                ShardPresence(job=each.job.id, shard=each.shard, model=each.job.model, began_at=each.began_at)
                for each in self._shards.running()
            ),
            done=_done(models),
            version=self._version,
        )

    def announce(self) -> None:
        """Say at once how this worker stands, as when a model came or went. Raises RedisError."""
        self._board.announce(self.presence(), draining=self._draining)

    def beat(self) -> None:
        """One beat. Raises RedisError or StorageAway."""
        self._end_if_a_batch_hangs()
        if self._engine.is_stuck(STUCK_AFTER_S):
            logger.error("engine stuck", seconds=STUCK_AFTER_S)
            return
        self.announce()
        self._shards.renew()
        self._shards.stop_those_stopped()
        self._asks.take_over({worker.id for worker in self._board.workers()})
        self._asks.refuse_departed()

    def _end_if_a_batch_hangs(self) -> None:
        """Nothing can end a Python thread but the end of its process; its asks and shards are kept in Redis and storage."""
        longest = self._engine.longest_batch()
        if self._busy_timeout_s is not None and longest is not None and longest[1] > self._busy_timeout_s:
            logger.critical("batch hangs, worker ends itself", model=longest[0], seconds=round(longest[1], 1))
            self._on_stuck()

    def _run(self) -> None:
        is_heard = True
        while not self._stopping.is_set():
            try:
                self.beat()
                is_heard = True
            except (RedisError, StorageAway) as error:
                if is_heard:
                    logger.warning("heartbeat not heard", error=type(error).__name__)
                is_heard = False
            except Exception:
                # Whatever it is, a worker without a heartbeat is dead to everybody: better beat on and say so.
                logger.exception("heartbeat failed")
            self._stopping.wait(BEAT_S)


def _done(models: Iterable[str]) -> tuple[LaneDone, ...]:
    """What this process counted, of what it did at all."""
    counted = (
        LaneDone(
            model=model,
            lane=lane,
            texts=int(metrics.TEXTS.value(model, lane)),
            tokens=int(metrics.TOKENS_RUN.value(model, lane)),
        )
        for model in models
        for lane in LANES
    )
    return tuple(done for done in counted if done.texts)
