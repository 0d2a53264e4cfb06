"""create_app: the web process put together. Here clients are opened, and routes, hooks and the error table are introduced."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, request

from shared import traces
from shared.build import umekomi_version
from shared.connections import BLOCKING_TIMEOUT_S, connect
from shared.control import ControlClient
from shared.errors import NotFound
from shared.files import FileStore
from shared.jobs.index import JobIndex
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.live import LiveRegistry
from shared.logs import get_logger
from shared.models import ModelRegistry
from shared.presence import PresenceBoard
from shared.settings import Settings
from shared.storage import open_storage
from web import failures, hooks, openai
from web.admission import Admission, threads, transfers
from web.auth import Access
from web.cors import Cors
from web.events import JobEvents
from web.latencies import LatencyBoard
from web.limits import Meter, MeteredAsks
from web.links import Links
from web.overview import Looker
from web.parts import EXTENSION, Parts
from web.quotas import Quotas
from web.readiness import StorageCheck, why_not_ready
from web.routes import (
    about,
    backend,
    batches,
    docs,
    embeddings,
    files,
    gallery,
    health,
    jobs,
    links,
    metrics,
    models,
    ollama,
    overview,
    rerank,
    results,
    tei,
    tokens,
    ui,
)
from web.scrape import Installation, exposed
from web.submissions import Submissions
from web.watching import Watchers

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
    live = LiveRegistry(settings, registry)
    for problem in live.problems:
        logger.warning("configuration problem", problem=str(problem), served=problem.served)
    traces.set_up("web")
    parts = _open_parts(settings, live)
    # The dashboard's files have a route of their own (web/routes/ui.py).
    app = Flask("web", static_folder=None)
    app.response_class = ApiResponse
    app.extensions[EXTENSION] = parts
    # Both spellings of a path are the same route; a redirect would lose the body of a POST.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    failures.install(app)
    cors = Cors(settings.cors, settings.cors_allow_origins)
    hooks.install(
        app,
        parts.access,
        parts.admission,
        parts.meter,
        cors,
        is_page_off=settings.disable_webui,
        without_key=hooks.open_to_all(settings),
    )
    for routes in (
        embeddings,
        jobs,
        files,
        batches,
        results,
        models,
        gallery,
        backend,
        tokens,
        rerank,
        ollama,
        tei,
        health,
        metrics,
        about,
        docs,
        links,
        overview,
        ui,
    ):
        app.register_blueprint(routes.blueprint)
    if settings.disable_webui or settings.disable_metrics_endpoint:
        app.before_request(_hider(settings))
    if settings.machine_tag:
        app.after_request(_tagger(settings.machine_tag))
    parts.asks.start()
    parts.events.start()
    parts.latencies.start()
    live.start()
    return app


def _hider(settings: Settings) -> Callable[[], None]:
    def hide() -> None:
        if hooks.is_hidden(request.path, settings):
            raise NotFound("this server was told not to serve this page")

    return hide


def _tagger(machine_tag: str) -> Callable[[Response], Response]:
    def tag(response: Response) -> Response:
        response.headers["Machine-Tag"] = machine_tag
        return response

    return tag


def _open_parts(settings: Settings, registry: LiveRegistry) -> Parts:
    redis = connect(settings.broker, max_connections=threads(settings.web_threads) + _SPARE_CONNECTIONS)
    blocking = connect(settings.broker, timeout_s=BLOCKING_TIMEOUT_S, max_connections=_SPARE_CONNECTIONS)
    storage = open_storage(settings.storage)
    presence = PresenceBoard(redis)
    all_jobs = Jobs(JobStore(storage), JobIndex(redis))
    files, meter = FileStore(storage), Meter(redis)
    quotas = Quotas(redis, all_jobs.index, files)
    storage_check = StorageCheck(storage)
    asks = MeteredAsks(
        meter,
        redis,
        blocking,
        max_waiting=settings.interactive_max_waiting,
        max_waiting_bytes=settings.interactive_max_waiting_bytes,
        explain=lambda model: why_not_ready(presence, model),
    )
    latencies = LatencyBoard(redis, asks.web_id, asks.latencies)
    looker = Looker(redis, registry, presence, all_jobs.index, latencies, umekomi_version())
    return Parts(
        settings=settings,
        registry=registry,
        redis=redis,
        blocking=blocking,
        access=Access.of(settings),
        admission=Admission(settings.web_threads),
        meter=meter,
        quotas=quotas,
        asks=asks,
        latencies=latencies,
        looker=looker,
        watchers=Watchers(looker.look, transfers(settings.web_threads)),
        links=Links(redis),
        presence=presence,
        control=ControlClient(redis, blocking, presence),
        jobs=all_jobs,
        files=files,
        submissions=Submissions(settings, all_jobs, presence, quotas),
        storage_check=storage_check,
        metrics=exposed(Installation(redis, presence, all_jobs.index, registry, storage_check.problem)),
        events=JobEvents(JobIndex(blocking), transfers(settings.web_threads)),
    )
