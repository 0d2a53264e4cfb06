"""GET /v1/models: what is served, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from flask import Blueprint, Response
from redis.exceptions import RedisError

from shared.errors import ModelNotFound
from shared.presence import WorkerPresence
from web import openai
from web.openapi import describe
from web.parts import parts
from web.readiness import serve

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
@blueprint.get("/models")
@describe(returns=openai.ModelList)
def list_models() -> Response:
    """Every model, in the order of the configuration."""
    workers = live_workers()
    models = [serve(config, workers, parts().registry_read_at) for config in parts().registry]
    return _json({"object": "list", "data": [openai.model_object(model) for model in models]})


@blueprint.get("/v1/models/<path:model_id>")
@blueprint.get("/models/<path:model_id>")
@describe(returns=openai.ModelObject, fails=[ModelNotFound], path={"model_id": "its name or alias, slashes and all"})
def get_model(model_id: str) -> Response:
    """One model by its name or alias, slashes and all."""
    config = parts().registry.get(model_id.rstrip("/"))
    return _json(openai.model_object(serve(config, live_workers(), parts().registry_read_at)))


def live_workers() -> list[WorkerPresence] | None:
    """The live workers; None if Redis is away."""
    try:
        return parts().presence.workers()
    except RedisError:
        return None


def _json(body: Mapping[str, object]) -> Response:
    return Response(orjson.dumps(body), content_type=openai.JSON)
