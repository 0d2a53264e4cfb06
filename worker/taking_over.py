"""Taking over: torch serves a model until its export is made, and then the export does, without anybody having to wait.

The export is loaded beside torch, so both are in memory for that moment. Where torch is to stay, nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from shared.logs import get_logger
from shared.models import ModelConfig, ModelSource
from worker.backends import Backend, LoadOptions
from worker.backends.engines import takes_over
from worker.backends.memory import give_back
from worker.backends.stand_in import StandIn
from worker.identity import Identity
from worker.place import Place, Places, loads_otherwise, shape_of

logger = get_logger(__name__)

# The model, and the bytes that it takes.
Load = Callable[[ModelConfig, ModelSource, LoadOptions], tuple[Backend, int]]


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that ended, well or not, while torch served the model."""

    place: Place
    config: ModelConfig
    source: ModelSource
    failed: str | None


def take_over(exported: Exported, places: Places, options: LoadOptions, load: Load) -> None:
    """In the loader's thread. What was changed or unloaded meanwhile is left alone: its next load finds the export."""
    place, config, source = exported.place, exported.config, exported.source
    with places.lock:
        stand_in = place.backend
        is_other = loads_otherwise(config, places.directory, place.config, places.directory)
        if not isinstance(stand_in, StandIn) or is_other or not place.is_ready:
            return
    options = replace(options, export_failed=exported.failed)
    if not takes_over(config, source, options):
        return
    began = places.clock()
    try:
        before = Identity(config, source, options.device)
        successor, memory_bytes = load(config, source, options)
    except Exception as error:
        logger.warning("torch serves instead of ONNX", model=config.name, reason=f"{type(error).__name__}: {str(error)[:200]}")
        return
    if not stand_in.relieve(successor):
        successor.close()
        return
    give_back(options.device)
    with places.lock:
        if place.backend is stand_in:
            # Another load: what was kept of the one before is not handed out for it.
            place.identity = Identity(config, source, options.device, loaded_from=before.seen, dtype=successor.dtype)
            place.memory_bytes, place.shape = memory_bytes, shape_of(stand_in)
    seconds = round(places.clock() - began, 2)
    logger.info("export took over from torch", model=config.name, seconds=seconds, memory_bytes=memory_bytes)
