"""POST /v1/embeddings: a client waits for the vectors of a few texts."""

from __future__ import annotations

import time

from flask import Blueprint, Response, request

from shared.errors import ContextLengthExceeded, EngineFailed, InvalidParameter, LaneFull, ModelNotFound
from shared.ids import new_id
from shared.interactive import Answer, Ask
from shared.jobs.wire import JOBS, JobObject
from shared.models import ModelConfig
from web import openai
from web.bodies import Body, require_json
from web.native import IDEMPOTENCY_KEY
from web.openapi import Header, Parameter, Returns, Takes, describe
from web.parts import parts
from web.routes.jobs import ACCEPTED, submit_json

blueprint = Blueprint("embeddings", __name__)

_REJECT = (
    "input: the model takes texts, not token ids; LangChain sends texts with check_embedding_ctx_length=False, "
    "and the model's entry may say `token_ids: cl100k_base` for LangChain's, or `token_ids: model` for ids of its own tokenizer"
)


@blueprint.post("/v1/embeddings")
@blueprint.post("/embeddings")
@blueprint.post("/v1/engines/<path:engine>/embeddings")
@blueprint.post("/v1/engines/<path:engine>/embeddings/")  # behind a part of several segments a slash is not passed over
@describe(
    takes=Takes(schema=openai.EmbeddingsBody, example={"model": "all-MiniLM-L6-v2", "input": ["a river", "a stone"]}),
    returns=[
        Returns(
            schema=openai.EmbeddingsObject,
            description="The vectors, in the order of the input.",
            headers=[
                Header("openai-model", "the model that was asked"),
                Header("server-timing", "milliseconds that the request waited, and that it took on the device"),
                Header("x-truncated-inputs", "positions of the inputs that were cut, with commas between; as many as fit"),
            ],
        ),
        Returns(
            schema=JobObject,
            status=202,
            description="With `Prefer: respond-async`: the job.",
            headers=[*ACCEPTED, Header("Preference-Applied", "respond-async")],
        ),
    ],
    fails=[InvalidParameter, ContextLengthExceeded, ModelNotFound, LaneFull, EngineFailed],
    headers=[
        Parameter("Prefer", str, "`respond-async`: answer with a job at once instead of with vectors"),
        Parameter(IDEMPOTENCY_KEY.name, str, f"of a job: {IDEMPOTENCY_KEY.description}"),
    ],
    path={"engine": "the model, whatever the body says"},
)
def create(engine: str | None = None) -> Response:
    """The vectors, in the order of the input; with `Prefer: respond-async` a job instead."""
    require_json(request)
    if _wants_job():
        response = submit_json(engine)
        response.headers["Preference-Applied"] = "respond-async"
        return response
    settings = parts().settings
    too_large = f"the body is over {settings.max_request_bytes} bytes; submit large inputs as a job: POST {JOBS}"
    body = Body(request, max_bytes=settings.max_request_bytes, too_large=too_large).read()
    wanted = openai.read_embeddings(body, settings)
    model = parts().registry.get(engine or wanted.fields.model)
    if wanted.token_ids:
        _check_token_ids(model)
    fields = wanted.fields
    answer = parts().asks.ask(
        Ask(
            id=new_id(),
            model=model.name,
            deadline=time.time() + settings.interactive_timeout_s,
            texts=wanted.texts,
            token_ids=wanted.token_ids,
            dimensions=fields.dimensions,
            prompt_name=fields.prompt_name,
            input_type=fields.input_type,
            truncate=fields.truncate,
        )
    )
    return _response(model, answer, openai.write_embeddings(model.name, answer, fields.encoding_format))


def _wants_job() -> bool:
    preferences = request.headers.get("Prefer", "").lower().split(",")
    return any(preference.partition(";")[0].strip() == "respond-async" for preference in preferences)


def _check_token_ids(model: ModelConfig) -> None:
    """Ids of another vocabulary would give vectors of other texts."""
    if model.token_ids == "reject":
        raise InvalidParameter(_REJECT, param="input", code="token_ids_not_supported")


def _response(model: ModelConfig, answer: Answer, body: bytes) -> Response:
    response = Response(body, content_type=openai.JSON)
    response.headers["openai-model"] = model.name.encode("ascii", "replace").decode()
    response.headers["server-timing"] = f"queue;dur={answer.queue_ms:.1f}, embed;dur={answer.embed_ms:.1f}"
    if answer.truncated:
        response.headers["x-truncated-inputs"] = openai.write_positions(answer.truncated)
    return response
