"""Ollama's routes of embeddings: /api/embed, /api/embeddings, /api/tags, /api/ps, /api/show, /api/version."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import orjson
from flask import Blueprint, Response

from shared.build import umekomi_version
from shared.errors import ContextLengthExceeded, EngineFailed, InvalidParameter, LaneFull, ModelNotFound
from shared.interactive import Answer
from web import ollama, openai
from web.asking import ask, read_json, read_texts
from web.openai import ServedModel
from web.openapi import Takes
from web.openapi import describe as describe_as_openai
from web.parts import parts
from web.readiness import serve
from web.routes.about import Version
from web.routes.models import live_workers

blueprint = Blueprint("ollama", __name__)

describe = partial(describe_as_openai, error=ollama.OllamaError)
_FAILS = [InvalidParameter, ContextLengthExceeded, ModelNotFound, LaneFull, EngineFailed]


@blueprint.post("/api/embed")
@describe(takes=Takes(schema=ollama.EmbedBody, example={"input": "a river"}), returns=ollama.EmbedObject, fails=_FAILS)
def embed() -> Response:
    """The vectors of texts."""
    began = time.monotonic()
    # Ollama reads a body as JSON whatever it says it is, and so does curl's -d come through.
    given = read_json(any_type=True)
    fields = openai.read_fields(ollama.EmbedFields, given)
    model = ollama.find(parts().registry, fields)
    if given.get("input") in (None, "", []):
        vectors, tokens = np.zeros((0, 0), np.float32), 0
    else:
        answer = ask(
            model,
            read_texts("input", given["input"]),
            dimensions=fields.dimensions or None,
            truncate="error" if fields.truncate is False else "end",
        )
        vectors, tokens = _vectors(answer), sum(answer.tokens)
    said = {
        "model": fields.model or fields.name or ollama.tagged(model.name),
        "embeddings": vectors,
        "total_duration": int((time.monotonic() - began) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": tokens,
    }
    return _json(said)


@blueprint.post("/api/embeddings")
@describe(takes=Takes(schema=ollama.EmbeddingsBody, example={"prompt": "a river"}), returns=ollama.EmbeddingObject, fails=_FAILS)
def embeddings() -> Response:
    """The vector of one text, as it was asked for before /api/embed."""
    given = read_json(any_type=True)
    model = ollama.find(parts().registry, openai.read_fields(ollama.OllamaFields, given))
    prompt = given.get("prompt")
    if prompt in (None, ""):
        return _json({"embedding": []})
    if type(prompt) is not str:
        raise InvalidParameter("prompt: must be a string", param="prompt", code="invalid_type")
    return _json({"embedding": _vectors(ask(model, read_texts("prompt", prompt), truncate="end"))[0]})


@blueprint.get("/api/tags")
@describe(returns=ollama.Tags)
def tags() -> Response:
    """Every served model."""
    return _json({"models": [ollama.tag(model) for model in _served()]})


@blueprint.get("/api/ps")
@describe(returns=ollama.Tags)
def ps() -> Response:
    """The models that are loaded."""
    return _json({"models": [ollama.tag(model) for model in _served() if model.state == "ready"]})


@blueprint.post("/api/show")
@describe(takes=ollama.OllamaFields, returns=ollama.Show, fails=[InvalidParameter, ModelNotFound])
def show() -> Response:
    """One model: its dimensions and how much it reads."""
    config = ollama.find(parts().registry, openai.read_fields(ollama.OllamaFields, read_json(any_type=True)))
    return _json(ollama.show(serve(config, live_workers(), parts().registry_read_at)))


@blueprint.get("/api/version")
@describe(returns=Version)
def get_version() -> Response:
    """The version, which is umekomi's."""
    return _json({"version": umekomi_version()})


def _served() -> list[ServedModel]:
    workers = live_workers()
    return [serve(config, workers, parts().registry_read_at) for config in parts().registry]


def _vectors(answer: Answer) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.require(answer.vectors, np.float32, ["C", "A"])


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), content_type=openai.JSON)
