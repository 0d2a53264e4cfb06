"""POST /v1/rerank: documents in the order in which a CrossEncoder thinks they answer a query."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response

from shared.errors import ContextLengthExceeded, EngineFailed, InvalidParameter, LaneFull, ModelNotFound
from web import openai
from web.asking import ask, read_json, reranker
from web.openapi import Header, Returns, Takes, describe
from web.rerank import Rank, RerankBody, RerankObject, read_rerank, rerank_object, tei_ranks

blueprint = Blueprint("rerank", __name__)

_EXAMPLE = {"model": "reranker", "query": "what do pandas eat", "documents": ["bamboo", "a river"], "top_n": 1}


@blueprint.post("/v1/rerank")
@blueprint.post("/v2/rerank")
@blueprint.post("/rerank")
@describe(
    takes=Takes(schema=RerankBody, example=_EXAMPLE),
    returns=Returns(
        schema=RerankObject | list[Rank],
        description="The documents, best first; for TEI's `texts` a list of `{index, score}`.",
        headers=[Header("x-truncated-inputs", "positions of the documents that were cut, with commas between; as many as fit")],
    ),
    fails=[InvalidParameter, ContextLengthExceeded, ModelNotFound, LaneFull, EngineFailed],
)
def rerank() -> Response:
    """Score documents against a query, best first; without a model the first reranker that is served."""
    wanted = read_rerank(read_json())
    model = reranker(wanted.fields.model)
    answer = ask(model, wanted.documents, kind="rerank", query=wanted.fields.query, truncate=wanted.truncate)
    body: Any = tei_ranks(wanted, answer) if wanted.is_tei else rerank_object(model.name, wanted, answer)
    response = Response(orjson.dumps(body), content_type=openai.JSON)
    if answer.truncated:
        response.headers["x-truncated-inputs"] = openai.write_positions(answer.truncated)
    return response
