"""Ask and Answer, and how they lie in Redis."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import orjson

from shared.errors import UmekomiError, from_wire, to_wire
from shared.keys import AskLength

# A web process that is gone reads no answers: they vanish after so long.
ANSWERS_EXPIRE_S = 60
# How long a blocking read lasts before it looks whether it should stop; Redis ends it at once when something comes.
BLOCK_S = 1.0


# Asks that weigh at most so many bytes are short (some thousand tokens), medium; the others are long.
MAX_BYTES_OF_LENGTH: dict[AskLength, float] = {"short": 4096, "medium": 65_536, "long": float("inf")}


def length_of(ask_bytes: int) -> AskLength:
    """How long an ask of so many bytes counts as: it shares a stream with its like, so no question queues behind a book."""
    return next(length for length, most in MAX_BYTES_OF_LENGTH.items() if ask_bytes <= most)


# What is wanted of the texts; detokenize wants the texts of token ids.
AskKind = Literal["embed", "tokenize", "detokenize", "rerank"]
# How much is wanted of tokens: how many there are, which, or everything about each.
TokenDetail = Literal["count", "ids", "all"]


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
    kind: AskKind = "embed"
    query: str | None = None  # of rerank: the texts are scored against it
    special_tokens: bool = True  # tokenize: add the model's own; detokenize: write them out
    detail: TokenDetail = "ids"  # of tokenize
    traceparent: str | None = None  # the span that waits for the answer

    def __len__(self) -> int:
        return len(self.texts) or len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Tokens:
    """How the model's tokenizer splits a text; what was not asked for is empty."""

    ids: Sequence[int]
    pieces: Sequence[str] = ()  # as the vocabulary spells them
    # Characters of the caller's text, begin and end, by token; None for special tokens and those of the prompt.
    spans: Sequence[tuple[int, int] | None] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The vectors of an ask, in its order; or scores, tokens or texts, by its kind."""

    # float32 [texts, dimensions]; of rerank [texts, 2]: the score, and what it was before the model's activation
    vectors: np.ndarray[Any, np.dtype[np.float32]]
    tokens: Sequence[int]  # tokens that went through the model, special ones too, by text
    truncated: Sequence[int] = ()  # positions of the texts that were cut
    queue_ms: float = 0.0  # from the arrival at the worker to the first batch
    embed_ms: float = 0.0  # from the first batch to the last vector
    split: Sequence[Tokens] = ()  # of tokenize
    texts: Sequence[str] = ()  # of detokenize
    max_tokens: int | None = None  # what the model reads of a text


@dataclass(frozen=True, slots=True)
class Moved:
    """The worker that had the ask stops; it waits for another one, under a new entry id of its stream."""

    entry: str


_HEADER = struct.Struct("<I")


def encode_answer(ask_id: str, answer: Answer | UmekomiError) -> bytes:
    """Length of the header, header (JSON), vectors (little-endian float32, row by row)."""
    if isinstance(answer, UmekomiError):
        header = orjson.dumps({"id": ask_id, "error": to_wire(answer), "retry_after_s": getattr(answer, "retry_after_s", None)})
        return _HEADER.pack(len(header)) + header
    said: dict[str, Any] = {
        "id": ask_id,
        "shape": answer.vectors.shape,
        "tokens": list(answer.tokens),
        "truncated": list(answer.truncated),
        "queue_ms": answer.queue_ms,
        "embed_ms": answer.embed_ms,
    }
    if answer.max_tokens is not None:
        split = [(tokens.ids, tokens.pieces, tokens.spans) for tokens in answer.split]
        said |= {"split": split, "texts": answer.texts, "max_tokens": answer.max_tokens}
    header = orjson.dumps(said)
    return b"".join((_HEADER.pack(len(header)), header, np.ascontiguousarray(answer.vectors, dtype="<f4").tobytes()))


def encode_moved(ask_id: str) -> bytes:
    """No answer yet: the ask went to another worker. The id of its new entry follows."""
    header = orjson.dumps({"id": ask_id, "moved": True})
    return _HEADER.pack(len(header)) + header


def decode_answer(raw: bytes) -> tuple[str, Answer | UmekomiError | Moved]:
    """What `encode_answer` or `encode_moved` wrote: the ask's id, and its answer or error, or where it waits now."""
    (length,) = _HEADER.unpack_from(raw)
    header = orjson.loads(memoryview(raw)[_HEADER.size : _HEADER.size + length])
    if "moved" in header:
        return header["id"], Moved(raw[_HEADER.size + length :].decode())
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
        split=[Tokens(*tokens) for tokens in header.get("split", ())],
        texts=header.get("texts", ()),
        max_tokens=header.get("max_tokens"),
    )
    return header["id"], answer


def encode_ask(ask: Ask) -> bytes:
    values = ((field, getattr(ask, field.name)) for field in fields(ask))
    return orjson.dumps({field.name: value for field, value in values if value != field.default and value != []})


def decode_ask(raw: bytes) -> Ask:
    """What `encode_ask` wrote; fields of a newer version are passed over."""
    return Ask(**{name: value for name, value in orjson.loads(raw).items() if name in Ask.__dataclass_fields__})
