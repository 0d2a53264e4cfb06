"""A request on its way through the engine: what is asked of a model, and the vectors that gather until it is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.errors import ContextLengthExceeded, EngineFailed, InvalidParameter, UmekomiError, Unavailable
from shared.interactive import AskKind, TokenDetail, Tokens
from shared.models import ModelConfig
from shared.openai import cut
from worker import token_ids as callers_ids
from worker.backends import Backend, TokenizedText
from worker.batcher import Lane, Line, Row
from worker.prompting import choose_prompt, tokenize
from worker.spelling import Spelling

# A question waits for at most one slice to be tokenized: some 10 ms.
SLICE_TEXTS = 256
# A longer text is no question.
QUESTION_CHARACTERS = 2000
SLICE_CHARACTERS = 32_768

Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Texts, or token ids, that are embedded and answered together. Exactly one of the two is given."""

    model: ModelConfig
    lane: Lane
    texts: Sequence[str] = ()
    token_ids: Sequence[Sequence[int]] = ()
    deadline: float | None = None  # unix seconds; past it: dropped unrun
    dimensions: int | None = None  # None: as the model says
    prompt_name: str | None = None
    input_type: str | None = None  # query or document
    truncate: str | None = None  # end or error; None: as the model says
    kind: AskKind = "embed"
    query: str | None = None  # of rerank
    special_tokens: bool = True  # of tokenize and detokenize
    detail: TokenDetail = "ids"  # of tokenize

    def __len__(self) -> int:
        return len(self.texts) or len(self.token_ids)


class Withdrawn(Unavailable):
    """The request was taken out of the engine before the device saw any of it: this worker stops, and another may run it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What became of a request, in its order."""

    vectors: Vectors  # float32 [texts, dimensions]; rows with an error are zero
    tokens: np.ndarray[Any, np.dtype[np.int32]]  # int32 [texts], special ones counted
    truncated: np.ndarray[Any, np.dtype[np.bool_]]  # bool [texts]
    errors: Mapping[int, UmekomiError]  # by position: rows that failed alone
    queue_s: float  # from submit to the first batch
    embed_s: float  # from the first batch to the last vector
    split: Sequence[Tokens] = ()  # of tokenize
    texts: Sequence[str] = ()  # of detokenize
    max_tokens: int | None = None  # of these two: what the model reads of a text


@dataclass(slots=True, eq=False)
class Work:
    """A request in the engine, which guards what several threads touch with its lock."""

    request: EmbedRequest
    arrived_at: float  # monotonic seconds, as below
    future: Future[Embedded] = field(default_factory=Future)
    line: Line = "long"
    due: float = 0.0  # its place among those of its lane
    began_at: float | None = None  # the first batch
    is_unread: bool = True  # texts are yet to be tokenized, now and not when the model is there
    is_over: bool = False
    is_open: bool = False  # what is asked of the model is settled
    open_rows: int = field(init=False)  # rows without vector or error
    unread_tokens: int = field(init=False)  # an estimate

    backend: Backend | None = None
    prompt: str = ""
    spelling: Spelling | None = None  # of a request that needs no device
    errors: dict[int, UmekomiError] = field(default_factory=dict)
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    tokens: np.ndarray[Any, np.dtype[np.int32]] = field(init=False)
    truncated: np.ndarray[Any, np.dtype[np.bool_]] = field(init=False)
    _texts: Sequence[str] = field(init=False)  # of the request, or decoded from its ids
    _next_position: int = 0  # first text not tokenized yet

    def __post_init__(self) -> None:
        self._texts = self.request.texts
        self.open_rows = len(self.request)
        self.unread_tokens = self._estimate(0)
        self.tokens = np.zeros(len(self.request), np.int32)
        self.truncated = np.zeros(len(self.request), np.bool_)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.request.model.name

    @property
    def lane(self) -> Lane:
        """Which lane it came by."""
        return self.request.lane

    @property
    def deadline(self) -> float | None:
        """Unix seconds."""
        return self.request.deadline

    @property
    def is_question(self) -> bool:
        """One short text that a client waits for."""
        request = self.request
        if request.lane != "interactive" or request.kind != "embed" or len(request) != 1:
            return False
        return len((request.texts or request.token_ids)[0]) <= QUESTION_CHARACTERS

    @property
    def is_read(self) -> bool:
        """Whether every text is tokenized."""
        return self._next_position >= len(self.request)

    def open(self, backend: Backend) -> None:
        """Settle what is asked of the loaded model. Raises InvalidParameter."""
        request = self.request
        self.backend, self.is_open = backend, True
        _check_kind(request, backend)
        self.prompt = choose_prompt(request, backend)
        if request.kind in ("tokenize", "detokenize"):
            self.spelling = Spelling(request, backend, self.prompt)
            callers_ids.check_range(request.token_ids, backend.vocabulary, request.model.name, param="tokens")
            return
        if request.truncate not in (None, "end", "error"):
            raise InvalidParameter("truncate must be `end` or `error`", param="truncate")
        self.vectors = np.zeros((len(request), _dimensions(request, backend)), np.float32)
        if request.token_ids:
            if request.model.token_ids == "reject":
                raise callers_ids.refuse(request.model)
            if request.model.token_ids == "cl100k_base":
                self._texts = callers_ids.decode_cl100k(request.token_ids)
            else:
                callers_ids.check_range(request.token_ids, backend.vocabulary, request.model.name)

    def read_slice(self) -> tuple[list[Row[Work]], int]:
        """Tokenize the next texts: rows for the batcher, and how many texts were refused instead."""
        begin, end = self._next_position, self._slice_end()
        rows, refused = [], 0
        if self.spelling is not None:
            for position in range(begin, end):
                self.tokens[position] = self._spell(self.spelling, position)
            self._next_position = end
            return [], end - begin
        for position, text in enumerate(self._tokenize(begin, end), begin):
            if isinstance(text, UmekomiError):
                self.errors[position] = text
                refused += 1
                continue
            self.tokens[position], self.truncated[position] = len(text), text.truncated
            rows.append(Row(self, position, text))
        self._next_position = end
        return rows, refused

    def unread_estimate(self) -> int:
        """Tokens of the texts not tokenized yet, estimated."""
        return self._estimate(self._next_position)

    def accept(self, position: int, outcome: Vectors | UmekomiError) -> None:
        """The vector of a row, or why it has none."""
        if isinstance(outcome, UmekomiError):
            self.errors[position] = outcome
            return
        self.vectors[position] = cut(outcome, self.vectors.shape[1])

    def answer(self, now: float) -> Embedded:
        """All of it; `now` in monotonic seconds."""
        began_at = now if self.began_at is None else self.began_at
        return Embedded(
            vectors=self.vectors,
            tokens=self.tokens,
            truncated=self.truncated,
            errors=self.errors,
            queue_s=began_at - self.arrived_at,
            embed_s=now - began_at,
            split=() if self.spelling is None else self.spelling.split,
            texts=() if self.spelling is None else self.spelling.texts,
            max_tokens=None if self.spelling is None or self.backend is None else self.backend.max_tokens,
        )

    def _spell(self, spelling: Spelling, position: int) -> int:
        if self.request.token_ids:
            return spelling.add_ids(self.request.token_ids[position])
        return spelling.add_text(self.request.texts[position])

    def _estimate(self, begin: int) -> int:
        texts = self._texts or self.request.token_ids
        characters = sum(map(len, texts[begin:] if begin else texts))
        each = 2 + len(self.request.query or "") // 3  # the special ones, and those of a query
        return (characters // 3 if self._texts else characters) + each * (len(texts) - begin)

    def _slice_end(self) -> int:
        texts = self._texts or self.request.token_ids
        end = begin = self._next_position
        characters = 0
        while end < min(len(texts), begin + SLICE_TEXTS) and characters < SLICE_CHARACTERS:
            characters += len(texts[end])
            end += 1
        return end

    def _tokenize(self, begin: int, end: int) -> list[TokenizedText | UmekomiError]:
        backend = self.backend
        assert backend is not None, "opened before it is read"
        tokenized: list[TokenizedText]
        if not self._texts:
            tokenized = [backend.wrap(ids) for ids in self.request.token_ids[begin:end]]
        else:
            texts = self._texts[begin:end]
            try:
                tokenized = tokenize(texts, self.prompt, self.request, backend)
            except Exception:
                return [self._checked(found) for text in texts for found in self._tokenize_alone(text)]
        return [self._checked(text) for text in tokenized]

    def _tokenize_alone(self, text: str) -> list[TokenizedText | UmekomiError]:
        assert self.backend is not None, "opened before it is read"
        try:
            return [*tokenize([text], self.prompt, self.request, self.backend)]
        except UnicodeEncodeError:
            return [InvalidParameter("the text holds half a character (a lone surrogate)", param="input")]
        except Exception as error:
            return [EngineFailed(f"the tokenizer failed on this text ({type(error).__name__})", param="input")]

    def _checked(self, text: TokenizedText | UmekomiError) -> TokenizedText | UmekomiError:
        if isinstance(text, UmekomiError) or not text.truncated:
            return text
        if (self.request.truncate or self.request.model.truncate) == "end":
            return text
        assert self.backend is not None, "opened before it is read"
        return ContextLengthExceeded(
            f"the text is longer than the {self.backend.max_tokens} tokens that {self.model!r} reads", param="input"
        )


def _check_kind(request: EmbedRequest, backend: Backend) -> None:
    """Raises InvalidParameter if the model is none for what is asked."""
    name = repr(request.model.name)
    if request.kind == "embed" and backend.kind == "rerank":
        raise InvalidParameter(f"{name} is a reranker and makes no embeddings; POST /v1/rerank asks it", param="model")
    if request.kind == "rerank" and backend.kind != "rerank":
        raise InvalidParameter(f"{name} is an embedding model, not a reranker; POST /v1/embeddings asks it", param="model")
    if (request.kind == "rerank") is not (request.query is not None):
        raise InvalidParameter("a query is what rerank needs, and nothing else", param="query")
    if request.kind not in ("embed", "rerank", "tokenize", "detokenize"):
        raise InvalidParameter("this worker does not know what is asked of it")


def _dimensions(request: EmbedRequest, backend: Backend) -> int:
    native = backend.dimensions
    if backend.kind == "rerank":
        return native
    if request.dimensions is None:
        return min(request.model.dimensions or native, native)
    if not 1 <= request.dimensions <= native:
        raise InvalidParameter(
            f"dimensions must be from 1 to {native}, the size of the vectors of {request.model.name!r}", param="dimensions"
        )
    return request.dimensions
