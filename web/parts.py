"""Parts: what create_app opened, for the routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from flask import current_app, g
from redis import Redis

from shared.files import FileStore
from shared.interactive import AskClient
from shared.jobs.jobs import Jobs
from shared.models import ModelRegistry
from shared.presence import PresenceBoard
from shared.settings import Settings
from web.auth import Access, Caller
from web.downloads import Lengths
from web.events import JobEvents
from web.readiness import StorageCheck
from web.submissions import Submissions

EXTENSION = "umekomi"


@dataclass(slots=True, kw_only=True)
class Parts:
    """Clients and collaborators of one web process; `registry` is swapped whole when the configuration changes."""

    settings: Settings
    registry: ModelRegistry
    registry_read_at: float  # unix seconds
    redis: Redis
    blocking: Redis
    access: Access
    asks: AskClient
    presence: PresenceBoard
    jobs: Jobs
    files: FileStore
    submissions: Submissions
    storage_check: StorageCheck
    events: JobEvents
    lengths: Lengths = field(default_factory=Lengths)

    def close(self) -> None:
        """End the threads and connections."""
        self.asks.stop()
        self.events.stop()
        self.redis.close()
        self.blocking.close()


def parts() -> Parts:
    """The parts of the app that serves this request."""
    return cast(Parts, current_app.extensions[EXTENSION])


def caller() -> Caller:
    """Who makes this request, as the hook around all routes found."""
    return cast(Caller, g.caller)
