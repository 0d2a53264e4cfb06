"""Reuse: which vectors may stand in for a shard's texts: those of its job (`dedupe`), or of earlier jobs too (`cache`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import orjson

from shared.errors import StorageAway
from shared.jobs.job import Job
from shared.jobs.store import JobStore
from shared.logs import get_logger
from shared.models import ModelConfig
from worker.engine import Embedded, Engine
from worker.vector_cache import CACHE, Asker, Landed, ModelChanged, Reused, VectorCache

logger = get_logger(__name__)

# Of what is kept and of how it is told apart: another number, and nothing kept before is found.
VERSION = 1


class Reuse:
    """Of one process. Thread-safe."""

    def __init__(self, store: JobStore, engine: Engine, cache: VectorCache) -> None:
        self._store = store
        self._engine = engine
        self._cache = cache

    def embed(self, job: Job, model: ModelConfig, texts: Sequence[str], asker: Asker) -> Reused:
        """Every text's vector, from the model where there is no other way. Raises what `asker` does."""
        if not (job.dedupe or job.cache):
            return Reused(asker.ask(texts), 0)
        identity = self._engine.identity(model.name)
        if identity is None:
            # Nobody has asked for the model yet: one text brings it in.
            asker.ask(texts[:1])
            identity = self._engine.identity(model.name)
        digest = identity.digest() if identity is not None else None
        if digest is None:
            return self._cache.embed(None, texts, asker)
        name = _name(job, model, digest)
        try:
            directory = f"{CACHE}/{name}" if job.cache else f"{self._store.vectors_of(job.id)}/{name}"
            return self._cache.embed(directory, texts, _Watched(asker, self._engine, model.name, digest))
        except ModelChanged:
            logger.warning("model changed under a shard", job=job.id, model=model.name)
            return self._cache.embed(None, texts, asker)
        finally:
            if not job.cache:
                self._remove_late(job)

    def _remove_late(self, job: Job) -> None:
        """A job's own vectors go at its end; of a shard that ran beside that none stay."""
        try:
            self._store.discard_late_vectors(job)
        except StorageAway as error:
            logger.warning("vectors of a finished job not removed", job=job.id, reason=str(error))


@dataclass(frozen=True, slots=True)
class _Watched:
    """An asker that tells when a model is another than the one whose vectors are looked up."""

    asker: Asker
    engine: Engine
    model: str
    digest: str

    def ask(self, texts: Sequence[str]) -> Embedded:
        """See Asker."""
        embedded = self.asker.ask(texts)
        identity = self.engine.identity(self.model)
        if identity is None or identity.digest() != self.digest:
            raise ModelChanged
        return embedded

    def wait(self, future: Future[Landed | None]) -> Landed | None:
        """See Asker."""
        return self.asker.wait(future)


def _name(job: Job, model: ModelConfig, identity: str) -> str:
    """Of everything that a vector depends on, and of the owner: nobody learns from a job's counts what others embedded."""
    given = job.parameters
    settled = {"truncate": given.truncate or model.truncate, "dimensions": given.dimensions or model.dimensions}
    parameters = given.model_dump() | settled
    said = orjson.dumps([VERSION, job.owner, identity, parameters], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(said, digest_size=16).hexdigest()
