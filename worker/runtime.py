"""Runtime: the engine and everything that feeds it, opened once, started and stopped in order."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid

from celery import Celery
from redis.exceptions import RedisError

from shared import traces
from shared.allocator import tables_from_malloc
from shared.connections import BLOCKING_TIMEOUT_S, connect
from shared.control import ControlServer
from shared.downloads import DownloadBoard
from shared.errors import StorageAway
from shared.files import FileStore
from shared.history import History
from shared.hub import Hub
from shared.interactive import AskServer
from shared.jobs.index import JobIndex
from shared.jobs.job import FINALIZE, PREPARE
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.live import LiveRegistry
from shared.logs import get_logger
from shared.models import ModelRegistry, Models
from shared.presence import PresenceBoard
from shared.settings import Settings
from shared.storage import open_storage
from worker.applying import Applier
from worker.backends.memory import one_heap
from worker.bulk import ShardRunner, Step
from worker.cache_sweeper import CacheSweeper
from worker.control import ControlLoop
from worker.downloads import Downloads
from worker.engine import Engine
from worker.finalizing import Finalizer
from worker.heartbeat import Heartbeat
from worker.historian import Historian
from worker.interactive import AskLoop
from worker.preparing import Preparer
from worker.queues import BulkQueues
from worker.reconciler import Reconciler
from worker.scrape import MetricsServer, Standing
from worker.vector_cache import VectorCache
from worker.webhooks import Webhooks

logger = get_logger(__name__)


class Runtime:
    """One worker process: its engine, its end of both lanes, its heartbeat, and its turn at leading."""

    def __init__(self, settings: Settings, registry: LiveRegistry, celery: Celery) -> None:
        one_heap()
        tables_from_malloc()
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._registry = registry
        redis = connect(settings.broker, timeout_s=BLOCKING_TIMEOUT_S)
        board = PresenceBoard(redis)
        storage = open_storage(settings.storage)
        jobs = Jobs(JobStore(storage), JobIndex(redis))
        cache = VectorCache(storage, settings.vector_cache_memory_bytes)
        self.cache_sweeper = CacheSweeper(storage, settings)
        self.queues = BulkQueues(celery, _names(registry))
        hub = Hub.of_environment(offline=settings.offline)
        self.engine = Engine(settings, registry.current, downloads=Downloads(hub))
        self.asks = AskLoop(
            AskServer(redis, self.worker_id), self.engine, registry, lambda models: board.retire(self.worker_id, models)
        )
        files = FileStore(storage)
        steps: dict[int, Step] = {
            PREPARE: Preparer(jobs, files, settings, self.worker_id),
            FINALIZE: Finalizer(jobs, files, registry, settings),
        }
        self.shards = ShardRunner(jobs, self.engine, registry, settings, self.worker_id, steps, cache=cache)
        self.heartbeat = Heartbeat(
            board,
            self.engine,
            self.asks,
            self.shards,
            self.worker_id,
            time.time(),
            settings.shards_at_once,
            busy_timeout_s=settings.watchdog_busy_timeout_s if settings.watchdog_busy else None,
        )
        self.control = ControlLoop(ControlServer(redis, self.worker_id), self.engine, self.heartbeat.announce)
        self.reconciler = Reconciler(
            jobs, board, celery, lambda: _names(registry), settings, self.worker_id, self.cache_sweeper.wake
        )
        self.historian = Historian(jobs.index, board, History(redis), self.worker_id)
        self.webhooks = Webhooks(jobs, settings, self.worker_id)
        self.applier = Applier(DownloadBoard(redis), hub, settings.applied_models, self.worker_id, self._read_again)
        self.metrics = MetricsServer(
            "" if settings.disable_metrics_endpoint else settings.metrics_address,
            Standing(self.engine.device, self.engine.waiting_tokens),
        )
        self._stopped = threading.Event()
        registry.subscribe(self._follow)

    def start(self) -> None:
        """Begin loading models and taking work; returns at once."""
        for problem in self._registry.problems:
            logger.warning("configuration problem", problem=str(problem), served=problem.served)
        traces.set_up("worker")
        self.metrics.start()
        self.engine.start()
        self.heartbeat.start()
        self.asks.start()
        self.control.start()
        self.cache_sweeper.start()
        self.reconciler.start()
        self.historian.start()
        self.webhooks.start()
        self.applier.start()
        self._registry.start()
        logger.info("worker started", worker=self.worker_id, device=self.engine.device)

    def drain(self) -> None:
        """Take nothing new; what was taken is finished. Only sets events: it is called by a signal handler."""
        self.heartbeat.drain()
        self.asks.drain()
        self.control.drain()
        self.reconciler.drain()
        self.webhooks.drain()
        self.applier.drain()

    def stop(self) -> None:
        """Answer what was taken, then end every thread and say goodbye. A second call does nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self.drain()
        self._registry.stop()
        self.reconciler.stop()
        self.historian.stop()
        self.cache_sweeper.stop()
        self.webhooks.stop()
        self.applier.stop()
        self.asks.stop()
        self.engine.stop()
        self.control.stop()
        self.heartbeat.stop()
        self.metrics.stop()
        traces.shut_down()
        logger.info("worker stopped", worker=self.worker_id)

    def _read_again(self) -> None:
        """A model was applied: serve it, and say so, before anybody hears that it is done."""
        self._registry.reload()
        try:
            self.heartbeat.announce()
        except (RedisError, StorageAway):
            pass  # the next beat says it

    def _follow(self, registry: ModelRegistry) -> None:
        """The configuration changed: the engine first, so that nobody is sent what it does not serve yet."""
        self.engine.replace_registry(registry)
        self.queues.take_from(_names(registry))


def _names(registry: Models) -> list[str]:
    return [model.name for model in registry]
