"""One batch through a model: a batch that does not fit is halved, one that fails is tried row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shared.errors import EngineFailed, UmekomiError
from shared.logs import get_logger
from worker.backends import Backend, OutOfMemory, TokenizedText
from worker.work import Vectors

logger = get_logger(__name__)


def embed_rows(
    backend: Backend, texts: Sequence[TokenizedText], on_out_of_memory: Callable[[int], None]
) -> list[Vectors | UmekomiError]:
    """By text: its vector, float32 [dimensions], or the error that it alone is to blame for.

    `on_out_of_memory` hears how many texts were too many.
    """
    try:
        vectors = backend.embed(texts)
        if vectors.shape[0] != len(texts):
            raise RuntimeError(f"the model gave {vectors.shape[0]} vectors for {len(texts)} texts")
    except OutOfMemory:
        if len(texts) == 1:
            return [EngineFailed(f"the device has no room for this text of {len(texts[0])} tokens", param="input")]
        on_out_of_memory(len(texts))
        half = len(texts) // 2
        return [outcome for part in (texts[:half], texts[half:]) for outcome in embed_rows(backend, part, on_out_of_memory)]
    except Exception as error:
        logger.warning("model failed", rows=len(texts), error=type(error).__name__, exc_info=True)
        if len(texts) == 1:
            return [EngineFailed(f"the model failed on this text ({type(error).__name__})", param="input")]
        return [embed_rows(backend, [text], on_out_of_memory)[0] for text in texts]
    outcomes: list[Vectors | UmekomiError] = list(vectors)
    for index in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
        if len(texts) > 1:
            outcomes[index] = embed_rows(backend, [texts[index]], on_out_of_memory)[0]
        else:
            outcomes[index] = EngineFailed("the model gave no finite vector for this text", param="input")
    return outcomes
