"""Routes of Text Embeddings Inference, as far as its clients of embeddings use them: POST /embed, POST / and GET /info."""

from __future__ import annotations

import numpy as np
import orjson
from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.build import umekomi_version
from shared.errors import ContextLengthExceeded, EngineFailed, InvalidParameter, LaneFull, ModelNotFound
from shared.prompts import GivenInputType
from web import openai
from web.asking import ask, one_of, read_json, read_texts
from web.openapi import Takes, describe
from web.parts import parts
from web.readiness import serve
from web.routes.models import live_workers

blueprint = Blueprint("tei", __name__)


class EmbedFields(BaseModel):
    """The fields of POST /embed beside its inputs; null means not given, unknown ones are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    normalize: bool | None = Field(None, description="true: unit length; else as the model gives it")
    truncate: bool | None = Field(None, description="cut what is too long; false: refuse it; else as the model's entry says")
    prompt_name: str | None = Field(None, min_length=1, max_length=200)
    input_type: GivenInputType = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)


class EmbedBody(EmbedFields):
    """A text, or texts."""

    inputs: str | list[str]


class Info(TypedDict):
    """What is served, in TEI's words, of the default model."""

    model_id: str
    model_dtype: str | None
    model_type: dict[str, object]
    max_input_length: int | None
    max_client_batch_size: int
    auto_truncate: bool
    version: str


@blueprint.post("/embed")
@blueprint.post("/")
@describe(
    takes=Takes(schema=EmbedBody, example={"inputs": ["a river", "a stone"]}),
    returns=list[list[float]],
    fails=[InvalidParameter, ContextLengthExceeded, ModelNotFound, LaneFull, EngineFailed],
)
def embed() -> Response:
    """A list with the vector of each text, as Text Embeddings Inference answers."""
    given = read_json()
    fields = openai.read_fields(EmbedFields, given)
    openai.check_prompt(fields.input_type, fields.prompt_name)
    texts = read_texts("inputs", given[one_of(given, "inputs")])
    answer = ask(
        parts().registry.get(fields.model),
        texts,
        dimensions=fields.dimensions,
        prompt_name=fields.prompt_name,
        input_type=fields.input_type,
        truncate=None if fields.truncate is None else "end" if fields.truncate else "error",
    )
    vectors = np.require(answer.vectors, np.float32, ["C", "A"])
    if fields.normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    return Response(orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY), content_type=openai.JSON)


@blueprint.get("/info")
@describe(returns=Info, fails=[ModelNotFound])
def info() -> Response:
    """The default model and its limits, as Text Embeddings Inference answers."""
    config = parts().registry.get(None)
    model = serve(config, live_workers(), parts().registry_read_at)
    said: Info = {
        "model_id": config.name,
        "model_dtype": model.dtype,
        "model_type": {"reranker": {}} if config.reranking else {"embedding": {"pooling": config.pooling}},
        "max_input_length": model.max_tokens,
        "max_client_batch_size": parts().settings.max_inputs,
        "auto_truncate": config.truncate == "end",
        "version": umekomi_version(),
    }
    return Response(orjson.dumps(said), content_type=openai.JSON)
