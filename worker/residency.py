"""Which models are loaded: the loader brings them, one thread lets them go; none goes while it is in use.

A model that is to go (idle for too long, in another one's way, told to, its entry changed) takes no new users and leaves
with its last one. Who asks for it meanwhile waits until it is loaded again. Who goes for whom is worker.eviction's decision.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Literal

from shared import metrics
from shared.errors import ModelNotFound, ModelNotReady
from shared.logs import get_logger
from shared.models import ModelConfig, ModelRegistry, find_source
from shared.presence import ModelPresence, ModelState
from shared.settings import Settings
from worker.backends import Backend, LoadOptions, load_backend
from worker.backends.engines import make_export
from worker.backends.memory import give_back, memory_in_use
from worker.downloads import Downloads
from worker.eviction import NO_BOUNDS, Bounds
from worker.identity import Identity
from worker.loader import Export, Load, Loader
from worker.place import Place, Places, loads_otherwise
from worker.threads import essential_thread

logger = get_logger(__name__)

Unloaded = Literal["unloaded", "not loaded", "in use"]


def bounds_of(settings: Settings) -> Bounds:
    """What the settings let be loaded at a time."""
    most = 1 if settings.single_active_backend else settings.max_active_backends
    return Bounds(max_models=most, max_memory_bytes=settings.max_model_memory_bytes)


class Residency:
    """The models of one device. Thread-safe.

    `on_change` is called, from the loader's thread and without a lock held, when a load ended, well or not;
    `on_death` when a thread died of something that is no failed load.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        options_of: Callable[[ModelConfig], LoadOptions],
        *,
        on_change: Callable[[str], None],
        on_death: Callable[[], None],
        load: Load = load_backend,
        export: Export = make_export,
        downloads: Downloads | None = None,
        bounds: Bounds = NO_BOUNDS,
        idle_s: float | None = None,
        memory_in_use: Callable[[str], int] = memory_in_use,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`idle_s`: when models whose entry says no ttl go; None: never. `downloads`: how models of a hub come here."""
        self._idle_s = idle_s
        self._places = Places(registry.directory, clock)
        self._places.all = {config.name: Place(config) for config in registry}
        self._loader = Loader(
            self._places,
            options_of,
            on_change=on_change,
            on_death=on_death,
            load=load,
            export=export,
            downloads=downloads,
            bounds=bounds,
            memory_in_use=memory_in_use,
        )
        self._unloader = essential_thread(self._unload_all, "unloader", on_death)

    def start(self) -> None:
        """Begin to load the models with `preload: true`."""
        with self._places.lock:
            self._preload(place for place in self._places.all.values() if place.config.preload)
        self._loader.start()
        self._unloader.start()

    def stop(self) -> None:
        """Load nothing more and close every model. Nobody may use one any longer."""
        with self._places.lock:
            self._places.is_stopping = True
            self._places.changed.notify_all()
        self._loader.stop()
        if self._unloader.ident is not None:
            self._unloader.join()
        with self._places.lock:
            backends = [place.backend for place in self._places.all.values() if place.backend is not None]
            for place in self._places.all.values():
                place.backend = None
        for backend in backends:
            backend.close()

    # Using a model

    def acquire(self, config: ModelConfig) -> Backend | None:
        """The loaded model, which stays until `release`; None while it loads, which this call may begin.

        Raises ModelNotReady, with the reason, if it could not be loaded lately, and ModelNotFound.
        """
        with self._places.lock:
            place = self._places.all.get(config.name)
            if place is None or place.is_removed:
                raise ModelNotFound(f"the model {config.name!r} is no longer served here", param="model")
            if place.is_ready:
                return self._use(place)
            again_in_s = place.retry_at - self._places.clock()
            if again_in_s > 0 and not place.is_queued:
                raise ModelNotReady(
                    f"the model {config.name!r} could not be loaded: {place.reason}",
                    retry_after_s=min(again_in_s, 10.0),
                    param="model",
                )
            self._loader.begin(place, is_asked=True)
            return None

    def check_in_time(self, name: str, deadline: float | None) -> None:
        """Raises ModelNotReady if the model's files will not be here by the deadline (unix seconds), with what is left."""
        with self._places.lock:
            place = self._places.all.get(name)
            download = place.download if place is not None else None
        if deadline is None or download is None or download.eta_s is None or time.time() + download.eta_s <= deadline:
            return
        message = f"the model {name!r} is being downloaded: {download}"
        raise ModelNotReady(message, retry_after_s=download.eta_s, param="model")

    def claim(self, name: str) -> Backend | None:
        """For who waited for a load that just ended: the model, as `acquire` gives it, even if it is to leave again."""
        with self._places.lock:
            place = self._places.all.get(name)
            return self._use(place) if place is not None and place.backend is not None and place.is_fresh else None

    def hold(self, name: str) -> None:
        """One more user of a model that has some."""
        with self._places.lock:
            self._places.all[name].users += 1

    def release(self, name: str) -> None:
        """A user of the model is done with it."""
        with self._places.lock:
            place = self._places.all[name]
            place.users -= 1
            place.last_used = self._places.clock()
            if place.users == 0:
                self._places.changed.notify_all()

    # Control

    def replace(self, registry: ModelRegistry) -> None:
        """Serve these models from now on: new ones come, those that are gone or load otherwise leave with their last user."""
        with self._places.lock:
            new = {config.name: config for config in registry}
            for name, place in list(self._places.all.items()):
                if name not in new and not place.is_removed:
                    place.is_removed, place.is_leaving = True, place.backend is not None
                    self._loader.fetch_no_further(place)
                    self._places.drop_if_gone(place)
            fresh = []
            for name, config in new.items():
                if name in self._places.all:
                    self._change(self._places.all[name], config, registry)
                else:
                    self._places.all[name] = Place(config)
                    fresh.append(self._places.all[name])
            self._places.directory = registry.directory
            self._preload(place for place in fresh if place.config.preload)
            self._places.changed.notify_all()

    def load(self, name: str, deadline: float) -> ModelPresence:
        """Load it as a request would, and wait until it is ready, failed, or the deadline (this clock's) passed."""
        with self._places.lock:
            place = self._places.all.get(name)
            if place is None or place.is_removed:
                raise ModelNotFound(f"the model {name!r} is not served here", param="model")
            if not place.is_ready:
                place.retry_at = 0.0  # who asks by name knows better
                self._loader.begin(place, is_asked=True)
            self._places.changed.wait_for(
                lambda: not place.is_queued or self._places.is_stopping, max(0.0, deadline - self._places.clock())
            )
            return replace(place.presence(None, self._places.clock()), reason=place.reason)

    def unload(self, name: str, deadline: float) -> Unloaded:
        """Give a model's memory back, waiting for its users until the deadline (this clock's); then it goes without us.

        It loads again at the next use.
        """
        with self._places.lock:
            place = self._places.all.get(name)
            if place is None or place.backend is None:
                return "not loaded"
            backend = place.backend
            place.is_leaving = True
            self._places.changed.notify_all()
            is_gone = self._wait_for(lambda: place.backend is not backend, deadline)
            return "unloaded" if is_gone else "in use"

    def identity(self, name: str) -> Identity | None:
        """What was loaded last; None before the first load."""
        with self._places.lock:
            place = self._places.all.get(name)
            return None if place is None else place.identity

    def presence(self, tokens_per_s: Mapping[str, float]) -> dict[str, ModelPresence]:
        """Every served model's state, by name; the rates are the caller's."""
        with self._places.lock:
            now = self._places.clock()
            return {
                name: place.presence(tokens_per_s.get(name), now)
                for name, place in self._places.all.items()
                if not place.is_removed
            }

    def model_states(self) -> dict[str, ModelState]:
        """As `presence` has them."""
        with self._places.lock:
            now = self._places.clock()
            return {name: place.state(now) for name, place in self._places.all.items() if not place.is_removed}

    # With the lock held

    def _use(self, place: Place) -> Backend:
        assert place.backend is not None, "looked at under the same lock"
        place.users += 1
        place.last_used = self._places.clock()
        return place.backend

    def _wait_for(self, is_so: Callable[[], bool], deadline: float) -> bool:
        """False if it is not so by the deadline (this clock's); a stop ends the waiting too."""
        left_s = max(0.0, deadline - self._places.clock())
        return self._places.changed.wait_for(lambda: is_so() or self._places.is_stopping, left_s)

    def _preload(self, places: Iterable[Place]) -> None:
        """Those of a hub first: they only set out on their way, and what is on this machine is loaded meanwhile."""
        for place in sorted(places, key=lambda place: not self._is_remote(place.config)):
            self._loader.begin(place, is_asked=False)

    def _change(self, place: Place, config: ModelConfig, registry: ModelRegistry) -> None:
        """The entry as it is now; what loads otherwise leaves, and comes back if it was there."""
        was_removed, place.is_removed = place.is_removed, False
        if not loads_otherwise(place.wanted, self._places.directory, config, registry.directory):
            if place.next_config is not None:
                place.next_config = config
            else:
                place.config = config
            if was_removed and place.backend is not None:
                self._loader.begin(place, is_asked=False)  # it leaves already
            return
        logger.info("model changed", model=config.name, loaded=place.backend is not None)
        place.retry_at, place.reason, place.has_failed, place.shape = 0.0, None, False, None
        place.next_config = config
        self._loader.fetch_no_further(place)
        if place.backend is not None:
            place.is_leaving = True
            self._loader.begin(place, is_asked=place.is_asked)
        elif config.preload:
            self._loader.begin(place, is_asked=False)

    def _is_remote(self, config: ModelConfig) -> bool:
        try:
            return find_source(config, self._places.directory).hub_id is not None
        except (OSError, ValueError, ImportError):
            return False  # fails at once, in the loader

    # The unloader's thread

    def _unload_all(self) -> None:
        while True:
            with self._places.lock:
                while not self._places.is_stopping:
                    place, in_s = self._next_to_go()
                    if place is not None:
                        break
                    self._places.changed.wait(in_s)
                else:
                    return
                place.is_leaving = place.is_closing = True
            self._unload_one(place)

    def _next_to_go(self) -> tuple[Place | None, float | None]:
        """A model that goes now; else in how many seconds to look again, None: when something changes."""
        now, soonest = self._places.clock(), None
        for place in self._places.all.values():
            since, ttl = place.idle_since(), place.config.ttl if place.config.ttl is not None else self._idle_s
            if since is None:
                continue
            if place.is_leaving:
                return place, None
            if ttl is not None and not place.config.pinned:
                if since + ttl <= now:
                    return place, None
                soonest = min(since + ttl - now, soonest if soonest is not None else threading.TIMEOUT_MAX)
        return None, soonest

    def _unload_one(self, place: Place) -> None:
        backend = place.backend
        assert backend is not None, "nobody else closes"
        try:
            backend.close()
        except Exception:
            logger.exception("model not closed", model=place.config.name)
        give_back(backend.device)
        metrics.UNLOADS.inc(1, place.config.name)
        logger.info("model unloaded", model=place.config.name, memory_bytes=place.memory_bytes)
        with self._places.lock:
            place.backend, place.is_leaving, place.is_closing, place.unloaded_at = None, False, False, time.time()
            self._loader.has_left(place)
            self._places.drop_if_gone(place)
            self._places.changed.notify_all()
