"""Heartbeat: once a second the worker says what it is, keeps its leases, and looks what changed around it."""

from __future__ import annotations

import os
import socket
import threading

from redis.exceptions import RedisError

from shared.errors import StorageAway
from shared.logs import get_logger
from shared.presence import BEAT_S, PresenceBoard, WorkerPresence
from worker.bulk import ShardRunner
from worker.engine import Engine
from worker.interactive import AskLoop
from worker.threads import essential_thread

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
    ) -> None:
        self._board = board
        self._engine = engine
        self._asks = asks
        self._shards = shards
        self._worker_id = worker_id
        self._started_at = started_at
        self._shards_at_once = shards_at_once
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
        return WorkerPresence(
            id=self._worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._engine.device,
            started_at=self._started_at,
            shards_at_once=self._shards_at_once,
            models=self._engine.presence(),
            waiting_tokens=self._engine.waiting_tokens(),
        )

    def beat(self) -> None:
        """One beat. Raises RedisError or StorageAway."""
        if self._engine.is_stuck(STUCK_AFTER_S):
            logger.error("engine stuck", seconds=STUCK_AFTER_S)
            return
        self._board.announce(self.presence(), draining=self._draining)
        self._shards.renew()
        self._shards.stop_those_stopped()
        self._asks.take_over({worker.id for worker in self._board.workers()})

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
