"""The wire format of reranking: Jina's, which LocalAI and Cohere share, and TEI's where its `texts` are used."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import (
    Any,
    Literal,
    NotRequired,  # pydantic's, before Python 3.12
)

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from shared.errors import InvalidParameter
from shared.interactive import Answer
from web.asking import one_of, read_texts
from web.openai import read_fields


class RerankFields(BaseModel):
    """The fields of POST /v1/rerank beside its documents; null means not given, unknown ones are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    query: str = Field(min_length=1)
    top_n: int | None = Field(None, ge=1, le=2**31 - 1, description="so many of the best; all")
    return_documents: bool | None = Field(None, description="each result has its document; true")
    return_text: bool | None = Field(None, description="TEI's: each result has its text; false")
    raw_scores: bool | None = Field(None, description="the model's output before its activation")
    truncate: bool | Literal["end", "error"] | None = Field(None, description="what happens to a pair that is too long")


class RerankDocument(TypedDict):
    """A document as Jina and Cohere also take it; other keys are passed over."""

    text: str


class RerankBody(RerankFields):
    """`documents`, or TEI's `texts`."""

    documents: list[str | RerankDocument] | None = None
    texts: list[str] | None = None


class RerankResult(TypedDict):
    """A document's place in the request, and its score."""

    index: int
    relevance_score: float
    document: NotRequired[RerankDocument]


class RerankUsage(TypedDict):
    """Tokens of all pairs: the query's count with each document."""

    total_tokens: int
    prompt_tokens: int


class RerankObject(TypedDict):
    """The documents, best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RerankResult]
    usage: RerankUsage


class Rank(TypedDict):
    """TEI's result."""

    index: int
    score: float
    text: NotRequired[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """A checked request."""

    fields: RerankFields
    documents: Sequence[str]
    is_tei: bool

    @property
    def truncate(self) -> str | None:
        """end or error; None: as the model says."""
        given = self.fields.truncate
        return {True: "end", False: "error"}[given] if isinstance(given, bool) else given


def read_rerank(given: dict[str, Any]) -> RerankRequest:
    """The request in a body. Raises InvalidParameter."""
    fields = read_fields(RerankFields, given)
    (query,) = read_texts("query", fields.query)
    del query  # within the limits
    name = one_of(given, "documents", "texts")
    documents = given[name]
    if type(documents) is list:
        documents = [document["text"] if _has_text(document) else document for document in documents]
    elif type(documents) is str:
        raise InvalidParameter(f"{name}: must be a list of strings", param=name, code="invalid_type")
    return RerankRequest(fields=fields, documents=read_texts(name, documents, may_be_empty=True), is_tei=name == "texts")


def _has_text(document: Any) -> bool:
    return type(document) is dict and "text" in document


def ranked(answer: Answer) -> list[int]:
    """Positions of the documents, best first. Where the activation made two scores one, the raw ones tell."""
    scores = answer.vectors.tolist()
    return sorted(range(len(scores)), key=lambda index: (-scores[index][0], -scores[index][1], index))


def rerank_object(model: str, request: RerankRequest, answer: Answer) -> RerankObject:
    """Jina's answer."""
    results: list[RerankResult] = []
    for index in ranked(answer)[: request.fields.top_n]:
        result: RerankResult = {"index": index, "relevance_score": _score(request, answer, index)}
        if request.fields.return_documents is not False:
            result["document"] = {"text": request.documents[index]}
        results.append(result)
    tokens = sum(answer.tokens)
    usage: RerankUsage = {"total_tokens": tokens, "prompt_tokens": tokens}
    return {"id": f"rerank-{uuid.uuid4().hex}", "object": "list", "model": model, "results": results, "usage": usage}


def tei_ranks(request: RerankRequest, answer: Answer) -> list[Rank]:
    """TEI's answer."""
    ranks: list[Rank] = []
    for index in ranked(answer)[: request.fields.top_n]:
        rank: Rank = {"index": index, "score": _score(request, answer, index)}
        if request.fields.return_text:
            rank["text"] = request.documents[index]
        ranks.append(rank)
    return ranks


def _score(request: RerankRequest, answer: Answer, index: int) -> float:
    return float(answer.vectors[index, 1 if request.fields.raw_scores else 0])
