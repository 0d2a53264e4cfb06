"""Runtime: the engine and everything that feeds it, opened once, started and stopped in order."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid

from celery import Celery

from shared.connections import BLOCKING_TIMEOUT_S, connect
from shared.files import FileStore
from shared.interactive import AskServer
from shared.jobs.index import JobIndex
from shared.jobs.job import FINALIZE, PREPARE
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.logs import get_logger
from shared.models import ModelRegistry
from shared.presence import PresenceBoard
from shared.settings import Settings
from shared.storage import open_storage
from worker.bulk import ShardRunner, Step
from worker.cache_sweeper import CacheSweeper
from worker.engine import Engine
from worker.finalizing import Finalizer
from worker.heartbeat import Heartbeat
from worker.interactive import AskLoop
from worker.preparing import Preparer
from worker.reconciler import Reconciler
from worker.vector_cache import VectorCache
from worker.webhooks import Webhooks

logger = get_logger(__name__)


class Runtime:
    """One worker process: its engine, its end of both lanes, its heartbeat, and its turn at leading."""

    def __init__(self, settings: Settings, registry: ModelRegistry, celery: Celery) -> None:
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._registry = registry
        redis = connect(settings.broker, timeout_s=BLOCKING_TIMEOUT_S)
        board = PresenceBoard(redis)
        storage = open_storage(settings.storage)
        jobs = Jobs(JobStore(storage), JobIndex(redis))
        cache = VectorCache(storage, settings.vector_cache_memory_bytes)
        self.cache_sweeper = CacheSweeper(storage, settings)
        models = [model.name for model in registry]
        self.engine = Engine(settings, registry)
        self.asks = AskLoop(AskServer(redis, self.worker_id), self.engine, registry)
        files = FileStore(storage)
        steps: dict[int, Step] = {
            PREPARE: Preparer(jobs, files, settings, self.worker_id),
            FINALIZE: Finalizer(jobs, files, registry, settings),
        }
        self.shards = ShardRunner(jobs, self.engine, registry, settings, self.worker_id, steps, cache=cache)
        self.heartbeat = Heartbeat(
            board, self.engine, self.asks, self.shards, self.worker_id, time.time(), settings.shards_at_once
        )
        self.reconciler = Reconciler(jobs, board, celery, models, settings, self.worker_id, self.cache_sweeper.wake)
        self.webhooks = Webhooks(jobs, settings, self.worker_id)
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin loading models and taking work; returns at once."""
        for problem in self._registry.problems:
            logger.warning("configuration problem", problem=str(problem), served=problem.served)
        self.engine.start()
        self.heartbeat.start()
        self.asks.start()
        self.cache_sweeper.start()
        self.reconciler.start()
        self.webhooks.start()
        logger.info("worker started", worker=self.worker_id, device=self.engine.device)

    def drain(self) -> None:
        """Take nothing new; what was taken is finished. Only sets events: it is called by a signal handler."""
        self.heartbeat.drain()
        self.asks.drain()
        self.reconciler.drain()
        self.webhooks.drain()

    def stop(self) -> None:
        """Answer what was taken, then end every thread and say goodbye. A second call does nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self.drain()
        self.reconciler.stop()
        self.cache_sweeper.stop()
        self.webhooks.stop()
        self.asks.stop()
        self.engine.stop()
        self.heartbeat.stop()
        logger.info("worker stopped", worker=self.worker_id)
