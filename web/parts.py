"""Parts: what create_app opened, for the routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from flask import current_app, g
from prometheus_client import CollectorRegistry
from redis import Redis

from shared.control import ControlClient
from shared.files import FileStore
from shared.interactive import AskClient
from shared.jobs.jobs import Jobs
from shared.live import LiveRegistry
from shared.presence import PresenceBoard
from shared.settings import Settings
from web.admission import Admission
from web.auth import Access, Caller
from web.downloads import Lengths
from web.events import JobEvents
from web.latencies import LatencyBoard
from web.limits import Meter
from web.links import Links
from web.overview import Looker
from web.quotas import Quotas
from web.readiness import StorageCheck
from web.submissions import Submissions
from web.watching import Watchers

EXTENSION = "umekomi"


@dataclass(slots=True, kw_only=True)
class Parts:
    """Clients and collaborators of one web process; `registry` is swapped whole when the configuration changes."""

    settings: Settings
    registry: LiveRegistry
    redis: Redis
    blocking: Redis
    access: Access
    admission: Admission
    meter: Meter
    quotas: Quotas
    asks: AskClient
    presence: PresenceBoard
    jobs: Jobs
    files: FileStore
    submissions: Submissions
    storage_check: StorageCheck
    events: JobEvents
    control: ControlClient
    looker: Looker
    watchers: Watchers
    latencies: LatencyBoard
    links: Links
    metrics: CollectorRegistry
    lengths: Lengths = field(default_factory=Lengths)

    @property
    def registry_read_at(self) -> float:
        """Unix seconds."""
        return self.registry.read_at

    def close(self) -> None:
        """End the threads and connections."""
        self.registry.stop()
        self.asks.stop()
        self.events.stop()
        self.watchers.stop()
        self.latencies.stop()
        self.redis.close()
        self.blocking.close()


def parts() -> Parts:
    """The parts of the app that serves this request."""
    return cast(Parts, current_app.extensions[EXTENSION])


def caller() -> Caller:
    """Who makes this request, as the hook around all routes found."""
    return cast(Caller, g.caller)
