"""A model's place in the worker: what is loaded there, who uses it, and what it says of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.models import ModelConfig, find_source
from shared.presence import DownloadPresence, ModelPresence, ModelState
from worker.backends import Backend
from worker.downloads import Fetched
from worker.eviction import Resident
from worker.identity import Identity

# Keys of an entry that a loaded model does not depend on; a change of any other, those to come too, loads it again.
_NOT_OF_THE_LOAD = {
    *("name", "alias", "description", "disabled", "default", "embeddings", "truncate", "token_ids", "query_cache", "batch"),
    *("preload", "pinned", "ttl", "concurrency_groups"),
}


@dataclass(slots=True, eq=False)
class Place:
    """One model. Times are in seconds of the owner's clock unless they say unix."""

    config: ModelConfig
    backend: Backend | None = None
    identity: Identity | None = None  # of what was loaded last, also when it is unloaded
    memory_bytes: int = 0  # as measured at the last load
    users: int = 0
    last_used: float = 0.0
    next_config: ModelConfig | None = None  # how it is loaded the next time, once the one loaded is gone
    is_queued: bool = False  # waits for its load, or is being loaded
    is_due: bool = False  # everything is there for its load, but that the one before has to leave first
    download: DownloadPresence | None = None  # its files are on their way to this machine
    fetched: Fetched | None = None  # what came of that, for the load that is next
    exported: tuple[ModelConfig, str | None] | None = None  # for the same: of what an export was tried, and why that failed
    exporting: ModelConfig | None = None  # what an export is being made of, while torch serves
    is_asked: bool = False  # somebody waits for it, so that others may have to go
    is_leaving: bool = False  # takes no new users, and goes with its last
    is_closing: bool = False
    is_fresh: bool = False  # just loaded: who waited for it comes first, before it may go
    is_removed: bool = False  # its entry is gone
    has_failed: bool = False
    reason: str | None = None  # why it could not be loaded the last time
    retry_at: float = 0.0  # not tried again before
    loaded_at: float | None = None  # unix
    unloaded_at: float | None = None  # unix
    shape: ModelPresence | None = None  # of what was loaded last

    @property
    def wanted(self) -> ModelConfig:
        """How it is to be loaded."""
        return self.next_config or self.config

    @property
    def is_ready(self) -> bool:
        """Whether it takes new users."""
        return self.backend is not None and not self.is_leaving

    def idle_since(self) -> float | None:
        """Since when nobody uses it; None if somebody does, or there is nothing that could go."""
        may_go = self.backend is not None and self.users == 0 and not self.is_closing and not self.is_fresh
        return self.last_used if may_go else None

    def resident(self) -> Resident:
        """What the decision who has to go wants to know."""
        return Resident(
            name=self.config.name,
            memory_bytes=self.memory_bytes,
            groups=frozenset(self.config.concurrency_groups),
            last_used=self.last_used,
            is_used=self.users > 0,
            # One that leaves anyway is no obstacle.
            is_pinned=self.config.pinned and not self.is_leaving,
        )

    def state(self, now: float) -> ModelState:
        """For everybody to see."""
        if self.is_ready:
            return "ready"
        if self.is_queued:
            return "loading" if self.download is None else "downloading"
        # Nobody asks a worker that says `failed`; so it says so only until it would try again.
        return "failed" if self.has_failed and now < self.retry_at else "available"

    def presence(self, tokens_per_s: float | None, now: float) -> ModelPresence:
        """What is said of it once a second."""
        is_there, state = self.backend is not None, self.state(now)
        download = self.download if state == "downloading" else None
        return replace(
            self.shape or ModelPresence(state="available"),
            state=state,
            reason=str(download) if download is not None else self.reason if self.has_failed or self.is_queued else None,
            download=download,
            tokens_per_s=tokens_per_s,
            memory_bytes=self.memory_bytes if is_there else None,
            loaded_at=self.loaded_at if is_there else None,
            last_used_at=time.time() - (now - self.last_used) if is_there else None,
            unloaded_at=None if is_there else self.unloaded_at,
            users=self.users,
        )


class Places:
    """All of them, by name, and the lock under which everybody reads and changes them; `changed` tells those who wait."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        """`directory`: where relative model paths start."""
        self.directory = directory
        self.clock = clock
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.all: dict[str, Place] = {}
        self.is_stopping = False

    def drop_if_gone(self, place: Place) -> None:
        """Forget a removed model with which nothing is left to be done; the lock is held."""
        if place.is_removed and place.backend is None and not place.is_queued:
            self.all.pop(place.config.name, None)


def loads_otherwise(old: ModelConfig, old_directory: Path, new: ModelConfig, new_directory: Path) -> bool:
    """Whether the new entry makes another model of it: other vectors, other files, another device."""
    if _load_keys(old) != _load_keys(new):
        return True
    return old_directory != new_directory and _source(old, old_directory) != _source(new, new_directory)


def _load_keys(config: ModelConfig) -> dict[str, Any]:
    return config.model_dump(exclude=_NOT_OF_THE_LOAD)


def _source(config: ModelConfig, directory: Path) -> object:
    try:
        return find_source(config, directory)
    except (OSError, ValueError, ImportError):
        return None


def shape_of(backend: Backend) -> ModelPresence:
    """What a loaded model says of itself."""
    return ModelPresence(
        state="ready",
        dimensions=backend.dimensions,
        max_tokens=backend.max_tokens,
        dtype=backend.dtype,
        engine=backend.engine,
        prompts=tuple(backend.prompts),
        kind=backend.kind,
    )
