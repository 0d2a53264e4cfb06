"""The loader: what is asked for is fetched, exported and loaded; who is in the way of a load is told to go.

One thread loads models one after another. What takes longer, files from a hub and a first export, is done beside it: the
model comes back to the loader afterwards, so no model waits for another one's download. An entry that changed meanwhile
goes that way anew. While an export is made torch serves, if that gives the same vectors, and the export takes over from it.
"""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from shared import metrics
from shared.hub import DownloadFailed
from shared.logs import get_logger
from shared.models import ModelConfig, ModelSource, find_source
from shared.presence import DownloadPresence
from worker.backends import Backend, LoadOptions
from worker.backends.engines import may_stand_in, needs_export
from worker.backends.memory import give_back, own_pages, weights_bytes
from worker.backends.stand_in import StandIn
from worker.downloads import Downloads, Fetched
from worker.eviction import Bounds, make_room
from worker.identity import Identity
from worker.place import Place, Places, shape_of
from worker.taking_over import Exported, take_over
from worker.threads import essential_thread

logger = get_logger(__name__)

# A model that failed to load is tried again, when somebody asks for it, after so long.
RETRY_AFTER_S = 30.0
# One for which there was no room, sooner: room comes and goes.
NO_ROOM_AGAIN_S = 2.0
# How long `stop` waits for a load that is under way: nothing can end it.
JOIN_S = 5.0
# A library's message may be a page; the reason is shown to callers.
MAX_REASON_CHARACTERS = 500
# Exports that one worker makes at a time: each takes torch, three times the model and a core. Two, for a small model's does
# not wait for a large one's.
EXPORTS_AT_ONCE = 2
# What a model that is still exported says of itself.
EXPORTING = "exporting to ONNX"

# What a load may import, some hundred MB of it.
_LIBRARIES = frozenset({"torch", "sentence_transformers", "transformers", "onnxruntime"})

Load = Callable[[ModelConfig, ModelSource, LoadOptions], Backend]
# The reason, if the export failed.
Export = Callable[[ModelConfig, ModelSource, LoadOptions], str | None]


class _NoRoom(Exception):
    """Nothing that is loaded may go for this model."""


@dataclass(frozen=True, slots=True)
class _ToExport:
    """An export that is to be made."""

    place: Place
    config: ModelConfig
    source: ModelSource
    is_awaited: bool  # the model is loaded after it; else torch serves meanwhile


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a load needs, of an entry as it was then; or why it cannot be."""

    config: ModelConfig
    source: ModelSource | None = None
    export_failed: str | None = None
    is_exporting: bool = False  # torch stands in meanwhile
    error: Exception | None = None


class Loader:
    """Thread-safe. `on_change` hears, without a lock held, when a load ended, well or not, and how far a download is."""

    def __init__(
        self,
        places: Places,
        options_of: Callable[[ModelConfig], LoadOptions],
        *,
        on_change: Callable[[str], None],
        on_death: Callable[[], None],
        load: Load,
        export: Export,
        downloads: Downloads | None,
        bounds: Bounds,
        memory_in_use: Callable[[str], int],
    ) -> None:
        self._places = places
        self._options_of = options_of
        self._on_change = on_change
        self._load = load
        self._export = export
        self._downloads = downloads
        self._bounds = bounds
        self._memory_in_use = memory_in_use
        self._to_load: queue.SimpleQueue[Place | Exported | None] = queue.SimpleQueue()
        self._to_export: queue.SimpleQueue[_ToExport | None] = queue.SimpleQueue()
        self._thread = essential_thread(self._load_all, "loader", on_death)
        names = [f"exporter-{number}" for number in range(EXPORTS_AT_ONCE)]
        self._exporters = [essential_thread(self._export_all, name, on_death) for name in names]

    def start(self) -> None:
        """Begin to load what was begun."""
        self._thread.start()
        for exporter in self._exporters:
            exporter.start()

    def stop(self) -> None:
        """Load nothing more; the places say already that everything stops."""
        if self._downloads is not None:
            self._downloads.stop()
        self._to_load.put(None)
        for _ in self._exporters:
            self._to_export.put(None)  # not waited for: their processes end with this one
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)

    # With the lock held

    def begin(self, place: Place, *, is_asked: bool) -> None:
        """Load it, unless that is under way; `is_asked`: somebody waits for it."""
        place.is_asked = place.is_asked or is_asked
        if not place.is_queued:
            place.is_queued, place.reason, place.has_failed = True, None, False
            place.fetched = place.exported = None
            self._to_load.put(place)

    def has_left(self, place: Place) -> None:
        """The model that was loaded there is closed."""
        if place.is_due:
            place.is_due = False
            self._to_load.put(place)

    def fetch_no_further(self, place: Place) -> None:
        """What is on its way for it is not what is wanted now; if anything else is, that comes next."""
        if place.is_queued and self._downloads is not None:
            self._downloads.cancel(place.config.name)

    # The loader's thread

    def _load_all(self) -> None:
        while (place := self._to_load.get()) is not None and not self._places.is_stopping:
            if isinstance(place, Exported):
                take_over(place, self._places, self._options_of(place.config), self._measured_load)
                continue
            prepared = self._prepare(place)
            if prepared is not None and self._load_one(place, prepared):
                self._on_change(place.config.name)  # who waited claims it, before it may leave again
                self._settle(place)

    def _prepare(self, place: Place) -> _Prepared | None:
        """None if its files or its export are made first: it comes back then, and the others need not wait."""
        with self._places.lock:
            config, directory, is_wanted = place.wanted, self._places.directory, not place.is_removed
            fetched, exported = place.fetched, place.exported
            if not is_wanted and not place.is_asked:
                return _Prepared(config)  # there is nothing to make for it
        try:
            source = find_source(config, directory)
            if source.hub_id is not None and self._downloads is not None:
                if fetched is None or not fetched.is_of(config, source.hub_id) or (fetched.is_cancelled and is_wanted):
                    self._fetch(place, config, source.hub_id, self._downloads)
                    return None
                if fetched.error is not None:
                    raise fetched.error
                source = ModelSource(directory=fetched.folder)
            if exported is not None and exported[0] is config:
                return _Prepared(config, source, exported[1])
            if not needs_export(config, source, self._options_of(config)):
                return _Prepared(config, source)
            if not may_stand_in(config, source):
                self._to_export.put(_ToExport(place, config, source, is_awaited=True))
                return None
            return _Prepared(config, source, is_exporting=True)
        except Exception as error:
            return _Prepared(config, error=error)

    def _fetch(self, place: Place, config: ModelConfig, hub_id: str, downloads: Downloads) -> None:
        def tell(download: DownloadPresence) -> None:
            place.download = download
            self._on_change(config.name)  # who cannot wait for so long is told now

        def load(fetched: Fetched) -> None:
            with self._places.lock:
                place.download, place.fetched = None, fetched
                self._to_load.put(place)

        downloads.begin(config, hub_id, on_progress=tell, then=load)

    def _load_one(self, place: Place, prepared: _Prepared) -> bool:
        """False if it could not even begin: it comes back when it can."""
        config, places = prepared.config, self._places
        with places.lock:
            if places.is_stopping or (place.is_removed and not place.is_asked):
                place.is_queued = False
                return True
            if place.wanted is not config:
                self._to_load.put(place)  # the entry changed just now
                return False
            if place.backend is not None:
                place.is_due = True  # two of the same name are never side by side
                return False
            place.config, place.next_config, was_asked = config, None, place.is_asked
        began, reason, has_failed = places.clock(), None, False
        backend: Backend | None = None
        try:
            if prepared.error is not None:
                raise prepared.error
            assert prepared.source is not None, "else there is an error"
            source = prepared.source
            options = self._options_of(config)
            options = replace(options, export_failed=prepared.export_failed, is_exporting=prepared.is_exporting)
            self._make_room(place, place.memory_bytes or weights_bytes(source.directory))
            before = Identity(config, source, options.device)
            backend, memory_bytes = self._measured_load(config, source, options)
            identity = Identity(config, source, options.device, loaded_from=before.seen, dtype=backend.dtype)
            self._make_room(place, memory_bytes)
        except _NoRoom as error:
            reason = str(error)
            log = logger.warning if place.is_asked else logger.info
            log("no room for model", model=config.name, reason=reason)
        except Exception as error:
            reason, has_failed = _reason(error), True
            metrics.LOAD_FAILURES.inc(1, config.name)
            logger.error("model failed to load", model=config.name, reason=reason)
        with places.lock:
            now = places.clock()
            is_asked, place.is_queued, place.is_asked = place.is_asked, False, False
            place.fetched = place.exported = None
            if reason is None and not places.is_stopping:
                assert backend is not None, "loaded without an error"
                place.backend, place.identity, place.memory_bytes = backend, identity, memory_bytes
                place.shape, place.loaded_at, place.last_used = shape_of(backend), time.time(), now
                place.is_leaving, place.is_fresh = False, True
                backend = None
            elif is_asked and not was_asked and not has_failed:
                self.begin(place, is_asked=True)  # others may go for it now
            elif has_failed or is_asked:
                # Where it was only to be preloaded it comes at its first use, and there is nothing to tell.
                place.reason, place.has_failed = reason, has_failed
                place.retry_at = now + (RETRY_AFTER_S if has_failed else NO_ROOM_AGAIN_S)
            if isinstance(place.backend, StandIn) and place.exporting is not config:
                # After the load, so that the two do not hold each other up.
                place.exporting = config
                self._to_export.put(_ToExport(place, config, source, is_awaited=False))
            places.changed.notify_all()
        if backend is not None:
            backend.close()
            give_back(backend.device)
        elif reason is None:
            shape, seconds = place.shape, places.clock() - began
            metrics.LOADS.inc(1, config.name)
            metrics.LOAD_SECONDS.inc(seconds, config.name)
            logger.info(
                "model loaded",
                model=config.name,
                seconds=round(seconds, 2),
                memory_bytes=place.memory_bytes,
                dimensions=shape and shape.dimensions,
                max_tokens=shape and shape.max_tokens,
                device=options.device,
                dtype=shape and shape.dtype,
            )
        return True

    def _settle(self, place: Place) -> None:
        """After a load, of which who waited has been told: what changed while it was under way takes its turn."""
        with self._places.lock:
            place.is_fresh = False
            if place.next_config is not None and not place.is_removed:
                place.is_leaving = place.backend is not None
                self.begin(place, is_asked=False)
            elif place.is_removed:
                place.is_leaving = place.backend is not None
                self._places.drop_if_gone(place)
            self._places.changed.notify_all()

    def _measured_load(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> tuple[Backend, int]:
        """The model, and the bytes that it takes: measured, but on a CPU never less than its weights."""
        before, libraries = self._memory_in_use(options.device), _LIBRARIES & sys.modules.keys()
        with own_pages():
            backend = self._load(config, source, options)
        give_back(options.device)  # what loading took beside the model
        measured = max(0, self._memory_in_use(options.device) - before)
        weights = 0 if options.device.startswith("cuda") else weights_bytes(source.directory)
        if weights and _LIBRARIES & sys.modules.keys() != libraries:
            return backend, weights  # the libraries came with it, for which no model is to blame
        return backend, max(measured, weights)

    def _make_room(self, place: Place, memory_bytes: int) -> None:
        """Wait until there is room for so much, telling models to go if somebody waits for this one. Raises _NoRoom."""
        places = self._places
        with places.lock:
            place.memory_bytes = memory_bytes
            while not places.is_stopping:
                others = [other.resident() for other in places.all.values() if other is not place and other.backend is not None]
                plan = make_room(place.resident(), others, self._bounds)
                if plan.refused is not None:
                    raise _NoRoom(plan.refused)
                if not plan.leave:
                    return
                if not place.is_asked:
                    raise _NoRoom(f"{', '.join(map(repr, plan.leave))} would have to go")
                for name in plan.leave:
                    if not places.all[name].is_leaving:
                        metrics.EVICTIONS.inc(1, name)
                        logger.info("model has to go", model=name, room_for=place.config.name)
                        places.all[name].is_leaving = True
                places.changed.notify_all()
                places.changed.wait()

    # The exporter's thread

    def _export_all(self) -> None:
        while (wish := self._to_export.get()) is not None and not self._places.is_stopping:
            place, config, source = wish.place, wish.config, wish.source
            if wish.is_awaited:
                with self._places.lock:
                    place.reason = EXPORTING
            try:
                failed = self._export(config, source, self._options_of(config))
            except Exception as error:
                failed = _reason(error)
            with self._places.lock:
                if wish.is_awaited:
                    place.reason, place.exported = None, (config, failed)
                    self._to_load.put(place)
                elif place.exporting is config:
                    place.exporting = None
                    self._to_load.put(Exported(place, config, source, failed))


def _reason(error: Exception) -> str:
    """For callers and logs, of whatever was raised; a path in it may be no text."""
    kind = "" if isinstance(error, DownloadFailed) else f"{type(error).__name__}: "
    return f"{kind}{error}"[:MAX_REASON_CHARACTERS].encode(errors="replace").decode()
