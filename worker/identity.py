"""Identity: what exactly a loaded model is, so that a vector is never taken for another model's; the same on every host."""

from __future__ import annotations

import hashlib
import threading

import orjson

from shared.logs import get_logger
from shared.models import ModelConfig, ModelSource
from worker.model_files import Seen, library_version, look

logger = get_logger(__name__)

# What an entry says beside its vectors; every other key of it, those to come too, makes another model of it.
_NOT_OF_THE_VECTORS = {
    *(
        "name",
        "alias",
        "description",
        "disabled",
        "default",
        "embeddings",
        "known_usecases",
        "parameters",
        "device",
        "threads",
        "truncate",
    ),
    *("token_ids", "batch", "preload", "pinned", "query_cache", "ttl", "concurrency_groups"),
    *("engine", "dtype", "f16"),
}
# They make the tokens: a new major version of transformers has given a tokenizer's ids shifted by one.
_LIBRARIES = ("sentence-transformers", "transformers", "tokenizers")


class Identity:
    """Of one load. The files are looked at when the model is loaded, and read the first time that somebody asks.

    So it costs a load nothing, and a folder that is replaced under a loaded model is told: the files are not those that
    were loaded. Contents count and not paths or times, for every host has a copy of its own. Thread-safe.
    """

    def __init__(
        self,
        config: ModelConfig,
        source: ModelSource,
        device: str,
        *,
        loaded_from: tuple[Seen, ...] | None = None,
        dtype: str = "float32",
    ) -> None:
        """`loaded_from`: what was `seen` before the load; a folder that changed meanwhile is no known model."""
        self._config = config
        self._directory = source.directory
        self.seen = tuple(look(source.directory)) if source.directory is not None else ()
        self._is_whole = loaded_from is None or loaded_from == self.seen
        # The sums of a GPU are others in the last bits.
        self._device = device.partition(":")[0]
        # As it was loaded, not as it was asked for. ONNX Runtime in float32 and torch agree to 1e-5, and share.
        self._dtype = dtype
        self._lock = threading.Lock()
        self._digest: str | None = None
        self._is_known = False

    def digest(self) -> str | None:
        """The same for equal models, hexadecimal; None if it cannot be told what was loaded."""
        with self._lock:
            if not self._is_known:
                self._digest = self._read()
                self._is_known = True
                if self._digest is None:
                    logger.warning("model not identified", model=self._config.name, reason="its files changed, or are not there")
            return self._digest

    def _read(self) -> str | None:
        found = hashlib.blake2b(digest_size=16)
        says = self._config.model_dump(mode="json", exclude=_NOT_OF_THE_VECTORS)
        libraries = [library_version(library) for library in _LIBRARIES] if self._config.backend != "fake" else []
        found.update(orjson.dumps([says, self._device, self._dtype, libraries], option=orjson.OPT_SORT_KEYS))
        if self._directory is None:
            found.update(self._config.parameters.model.encode())  # a model without files
            return found.hexdigest()
        try:
            for name, *_ in self.seen:
                with (self._directory / name).open("rb") as file:
                    content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
                found.update(name.encode(errors="surrogateescape") + b"\0" + content)
            if not self.seen or not self._is_whole or tuple(look(self._directory)) != self.seen:
                return None
        except OSError:
            return None
        return found.hexdigest()
