"""Which models are loaded: a thread loads them one after another, at start or at first use; none goes while it is in use."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.errors import ModelNotReady
from shared.logs import get_logger
from shared.models import ModelConfig, ModelRegistry, ModelSource, find_source
from shared.presence import ModelPresence, ModelState
from worker.backends import Backend, LoadOptions, load_backend
from worker.identity import Identity
from worker.threads import essential_thread

logger = get_logger(__name__)

# A model that failed to load is tried again, when somebody asks for it, after so long.
RETRY_AFTER_S = 30.0
# How long `stop` waits for a load that is under way: nothing can end it, and a hub may take long.
LOADER_JOIN_S = 5.0
# A library's message may be a page; the reason is shown to callers.
MAX_REASON_CHARACTERS = 500

Load = Callable[[ModelConfig, ModelSource, LoadOptions], Backend]


@dataclass(slots=True)
class _Place:
    """One model: where it stands."""

    config: ModelConfig
    state: ModelState = "available"
    backend: Backend | None = None
    identity: Identity | None = None  # of what was loaded last, also when it is unloaded
    reason: str | None = None
    failed_at: float = 0.0  # monotonic seconds
    users: int = 0


class Residency:
    """The models of one device. Thread-safe.

    `on_change` is called, from the loader's thread and without a lock held, when a load ended, well or not;
    `on_death` when that thread died of something that is no failed load.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        options_of: Callable[[ModelConfig], LoadOptions],
        *,
        on_change: Callable[[str], None],
        on_death: Callable[[], None],
        load: Load = load_backend,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = registry.directory
        self._options_of = options_of
        self._on_change = on_change
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()
        self._places = {config.name: _Place(config) for config in registry}
        self._to_load: queue.SimpleQueue[_Place | None] = queue.SimpleQueue()
        self._loader = essential_thread(self._run, "loader", on_death)
        self._is_stopping = False

    def start(self) -> None:
        """Begin to load the models with `preload: true`, those that are on this machine first: a hub may take long."""
        with self._lock:
            wanted = [place for place in self._places.values() if place.config.preload]
            for place in sorted(wanted, key=lambda place: self._is_remote(place.config)):
                self._begin(place)
        self._loader.start()

    def stop(self) -> None:
        """Load nothing more and close every model. Nobody may use one any longer."""
        self._is_stopping = True
        self._to_load.put(None)
        if self._loader.ident is not None:
            self._loader.join(LOADER_JOIN_S)
        with self._lock:
            backends = [place.backend for place in self._places.values() if place.backend is not None]
            for place in self._places.values():
                place.backend, place.state = None, "available"
        for backend in backends:
            backend.close()

    def acquire(self, config: ModelConfig) -> Backend | None:
        """The loaded model, which stays until `release`; None while it loads, which this call may begin.

        Raises ModelNotReady, with the reason, if it failed to load lately.
        """
        with self._lock:
            place = self._places.setdefault(config.name, _Place(config))
            if place.state == "ready":
                place.users += 1
                return place.backend
            if place.state == "failed":
                again_in_s = place.failed_at + RETRY_AFTER_S - self._clock()
                if again_in_s > 0:
                    raise ModelNotReady(
                        f"the model {config.name!r} could not be loaded: {place.reason}",
                        retry_after_s=min(again_in_s, 10.0),
                        param="model",
                    )
            if place.state != "loading":
                self._begin(place)
            return None

    def identity(self, name: str) -> Identity | None:
        """What was loaded last; None before the first load."""
        with self._lock:
            place = self._places.get(name)
            return None if place is None else place.identity

    def hold(self, name: str) -> None:
        """One more user of a model that has some."""
        with self._lock:
            self._places[name].users += 1

    def release(self, name: str) -> None:
        """A user of the model is done with it."""
        with self._lock:
            self._places[name].users -= 1

    def unload(self, name: str) -> bool:
        """Give a model's memory back; it loads again at the next use. False if it is in use or not loaded."""
        with self._lock:
            place = self._places[name]
            if place.backend is None or place.users > 0:
                return False
            backend, place.backend, place.state = place.backend, None, "available"
        backend.close()
        logger.info("model unloaded", model=name)
        return True

    def presence(self, tokens_per_s: Mapping[str, float]) -> dict[str, ModelPresence]:
        """Every model's state, by name; the rates are the caller's."""
        with self._lock:
            now = self._clock()
            return {name: _presence(place, tokens_per_s.get(name), now) for name, place in self._places.items()}

    def _begin(self, place: _Place) -> None:
        place.state, place.reason = "loading", None
        self._to_load.put(place)

    def _is_remote(self, config: ModelConfig) -> bool:
        try:
            return self._source(config).hub_id is not None
        except (OSError, ValueError, ImportError):
            return False  # fails at once, in the loader

    def _source(self, config: ModelConfig) -> ModelSource:
        return find_source(config, self._directory)

    def _run(self) -> None:
        while (place := self._to_load.get()) is not None and not self._is_stopping:
            self._load_one(place)

    def _load_one(self, place: _Place) -> None:
        config, began = place.config, self._clock()
        try:
            source, options = self._source(config), self._options_of(config)
            before = Identity(config, source, options.device)
            backend = self._load(config, source, options)
            identity = Identity(config, source, options.device, loaded_from=before.seen)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS]
            with self._lock:
                place.state, place.reason, place.failed_at = "failed", reason, self._clock()
            logger.error("model failed to load", model=config.name, reason=reason)
        else:
            with self._lock:
                is_late = self._is_stopping
                if not is_late:
                    place.state, place.backend, place.identity = "ready", backend, identity
            if is_late:
                backend.close()
                return
            logger.info(
                "model loaded",
                model=config.name,
                seconds=round(self._clock() - began, 2),
                dimensions=backend.dimensions,
                max_tokens=backend.max_tokens,
                device=backend.device,
                dtype=backend.dtype,
            )
        self._on_change(config.name)


def _presence(place: _Place, tokens_per_s: float | None, now: float) -> ModelPresence:
    if place.backend is None:
        # Nobody asks a worker that says `failed`; so it says so only until it would try again.
        may_try = place.state == "failed" and now >= place.failed_at + RETRY_AFTER_S
        return ModelPresence(state="available" if may_try else place.state, reason=place.reason)
    backend = place.backend
    return ModelPresence(
        state=place.state,
        dimensions=backend.dimensions,
        max_tokens=backend.max_tokens,
        dtype=backend.dtype,
        tokens_per_s=tokens_per_s,
        prompts=tuple(backend.prompts),
    )
