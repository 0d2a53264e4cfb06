"""create_app: the web process put together. Here clients are opened, and routes, hooks and the error table are introduced."""

from __future__ import annotations

import time

from flask import Flask, Response

from shared.connections import BLOCKING_TIMEOUT_S, connect
from shared.files import FileStore
from shared.interactive import AskClient
from shared.jobs.index import JobIndex
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.logs import get_logger
from shared.models import ModelRegistry, load_registry
from shared.presence import PresenceBoard
from shared.settings import Settings
from shared.storage import open_storage
from web import failures, hooks, openai
from web.auth import Access
from web.events import JobEvents
from web.parts import EXTENSION, Parts
from web.readiness import StorageCheck
from web.routes import about, batches, embeddings, files, health, jobs, models, results
from web.submissions import Submissions

logger = get_logger(__name__)

# Requests that talk to Redis at once, and the thread that waits for answers.
_SPARE_CONNECTIONS = 16


class ApiResponse(Response):
    """What Flask makes by itself (the answer to OPTIONS) is no HTML either."""

    default_mimetype = openai.JSON


def create_app(settings: Settings, registry: ModelRegistry | None = None) -> Flask:
    """An app whose threads run: call it in the process that serves, after any fork.

    `registry` is read from the settings unless it is given. Raises OSError if the configuration file cannot be read,
    StorageAway if the storage directory cannot be made.
    """
    if registry is None:
        registry = load_registry(settings)
    for problem in registry.problems:
        logger.warning("configuration problem", problem=str(problem), served=problem.served)
    parts = _open_parts(settings, registry)
    # Static files are the dashboard's, which is not here yet.
    app = Flask("web", static_folder=None)
    app.response_class = ApiResponse
    app.extensions[EXTENSION] = parts
    # Both spellings of a path are the same route; a redirect would lose the body of a POST.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    failures.install(app)
    hooks.install(app, parts.access)
    for routes in (embeddings, jobs, files, batches, results, models, health, about):
        app.register_blueprint(routes.blueprint)
    parts.asks.start()
    parts.events.start()
    return app


def _open_parts(settings: Settings, registry: ModelRegistry) -> Parts:
    redis = connect(settings.broker, max_connections=settings.web_threads + _SPARE_CONNECTIONS)
    blocking = connect(settings.broker, timeout_s=BLOCKING_TIMEOUT_S, max_connections=_SPARE_CONNECTIONS)
    storage = open_storage(settings.storage)
    presence = PresenceBoard(redis)
    all_jobs = Jobs(JobStore(storage), JobIndex(redis))
    return Parts(
        settings=settings,
        registry=registry,
        registry_read_at=time.time(),
        redis=redis,
        blocking=blocking,
        access=Access(key.get_secret_value() for key in settings.api_keys),
        asks=AskClient(
            redis,
            blocking,
            max_waiting=settings.interactive_max_waiting,
            max_waiting_bytes=settings.interactive_max_waiting_bytes,
        ),
        presence=presence,
        jobs=all_jobs,
        files=FileStore(storage),
        submissions=Submissions(settings, all_jobs, presence),
        storage_check=StorageCheck(storage),
        # A third of the threads, so that whoever wants an answer finds one.
        events=JobEvents(JobIndex(blocking), max(1, settings.web_threads // 3)),
    )
