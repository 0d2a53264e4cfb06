"""Ask and Answer, and how they lie in Redis."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import orjson

from shared.errors import UmekomiError, from_wire, to_wire

# A web process that is gone reads no answers: they vanish after so long.
ANSWERS_EXPIRE_S = 60
# How long a blocking read lasts before it looks whether it should stop; Redis ends it at once when something comes.
BLOCK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Texts that a client waits for. Exactly one of `texts` and `token_ids` is given."""

    id: str  # unique: two asks of one process that wait at once never share it
    model: str
    deadline: float  # unix seconds
    texts: Sequence[str] = ()
    token_ids: Sequence[Sequence[int]] = ()
    dimensions: int | None = None
    prompt_name: str | None = None
    input_type: str | None = None  # query or document
    truncate: str | None = None  # end or error; None: as the model says

    def __len__(self) -> int:
        return len(self.texts) or len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The vectors of an ask, in its order."""

    vectors: np.ndarray[Any, np.dtype[np.float32]]  # float32 [texts, dimensions]
    tokens: Sequence[int]  # tokens that went through the model, special ones too, by text
    truncated: Sequence[int] = ()  # positions of the texts that were cut
    queue_ms: float = 0.0  # from the arrival at the worker to the first batch
    embed_ms: float = 0.0  # from the first batch to the last vector


_HEADER = struct.Struct("<I")


def encode_answer(ask_id: str, answer: Answer | UmekomiError) -> bytes:
    """Length of the header, header (JSON), vectors (little-endian float32, row by row)."""
    if isinstance(answer, UmekomiError):
        header = orjson.dumps({"id": ask_id, "error": to_wire(answer), "retry_after_s": getattr(answer, "retry_after_s", None)})
        return _HEADER.pack(len(header)) + header
    header = orjson.dumps(
        {
            "id": ask_id,
            "shape": answer.vectors.shape,
            "tokens": list(answer.tokens),
            "truncated": list(answer.truncated),
            "queue_ms": answer.queue_ms,
            "embed_ms": answer.embed_ms,
        }
    )
    return b"".join((_HEADER.pack(len(header)), header, np.ascontiguousarray(answer.vectors, dtype="<f4").tobytes()))


def decode_answer(raw: bytes) -> tuple[str, Answer | UmekomiError]:
    """What `encode_answer` wrote: the ask's id, and its answer or error."""
    (length,) = _HEADER.unpack_from(raw)
    header = orjson.loads(memoryview(raw)[_HEADER.size : _HEADER.size + length])
    if "error" in header:
        error = from_wire(header["error"])
        if header.get("retry_after_s") is not None:
            error.retry_after_s = header["retry_after_s"]  # type: ignore[attr-defined]
        return header["id"], error
    vectors = np.frombuffer(raw, dtype="<f4", offset=_HEADER.size + length).reshape(header["shape"])
    answer = Answer(
        vectors=vectors,
        tokens=header["tokens"],
        truncated=header["truncated"],
        queue_ms=header["queue_ms"],
        embed_ms=header["embed_ms"],
    )
    return header["id"], answer


def encode_ask(ask: Ask) -> bytes:
    values = {field.name: getattr(ask, field.name) for field in fields(ask)}
    return orjson.dumps({name: value for name, value in values.items() if value is not None and value != () and value != []})


def decode_ask(raw: bytes) -> Ask:
    """What `encode_ask` wrote; fields of a newer version are passed over."""
    return Ask(**{name: value for name, value in orjson.loads(raw).items() if name in Ask.__dataclass_fields__})
