"""LocalAI's routes for an operator: how the models stand on the workers, load one, unload one; and GET /system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import orjson
from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.build import umekomi_version
from shared.control import Command, Outcome, Verb
from shared.errors import InvalidParameter, ModelNotFound, ModelNotReady, NoWorker, Unavailable
from shared.models import ModelConfig
from shared.presence import WorkerPresence
from web import openai
from web.bodies import Body
from web.monitor import ModelMonitor, System, monitor, system
from web.openapi import Parameter, Takes, describe
from web.parts import parts
from web.readiness import serve

blueprint = Blueprint("backend", __name__)

MAX_BODY_BYTES = 64 * 2**10


class ModelBody(BaseModel):
    """Which model; LocalAI's body."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = Field(None, description="its name or alias")


class ShutdownBody(ModelBody):
    """Which model, and whether a pinned one goes too."""

    force: bool | None = Field(None, description="unload it though it is pinned")


class Monitors(TypedDict):
    """Every model."""

    object: Literal["list"]
    data: list[ModelMonitor]


class Loaded(TypedDict):
    """A worker has the model ready."""

    model: str
    state: Literal["ready"]
    worker: str


class Unloaded(TypedDict):
    """No worker has the model in memory; how it was on each."""

    model: str
    workers: dict[str, Literal["unloaded", "not loaded"]]


ANY_MODEL = Parameter("model", Annotated[str, Field(min_length=1)], "the model's name or alias; it may stand in the body instead")


@blueprint.get("/backend/monitor")
@blueprint.get("/v1/backend/monitor")
@describe(returns=ModelMonitor | Monitors, fails=[ModelNotFound], query=[ANY_MODEL])
def get_monitor() -> Response:
    """A model's state, memory and use on every live worker; without a name those of all models.

    As with LocalAI the name may stand in the body of the GET.
    """
    given = _read(ModelBody)
    workers = parts().presence.workers()
    if given.model is None:
        return _json({"object": "list", "data": [_monitor(config, workers) for config in parts().registry]})
    return _json(_monitor(parts().registry.get(given.model), workers))


@blueprint.post("/backend/load")
@blueprint.post("/v1/backend/load")
@describe(returns=Loaded, takes=Takes(schema=ModelBody, is_required=False), fails=[ModelNotFound], query=[ANY_MODEL])
def load() -> Response:
    """Load a model on every live worker that serves it, letting others go if there is no room; answered when the first has it.

    One that takes longer than a request may last is answered with 503 and goes on loading.
    """
    config = _named(_read(ModelBody))
    reasons = set()
    for outcome in _order("load", config):
        if outcome.state == "ready":
            return _json({"model": config.name, "state": "ready", "worker": outcome.worker})
        if outcome.state not in ("loading", "downloading"):
            reasons.add(outcome.reason or f"it is {outcome.state}")
    if reasons:
        raise ModelNotReady(f"the model {config.name!r} could not be loaded: {'; '.join(sorted(reasons))}", retry_after_s=10)
    raise ModelNotReady(f"the model {config.name!r} is still loading", retry_after_s=2)


@blueprint.post("/backend/shutdown")
@blueprint.post("/v1/backend/shutdown")
@describe(returns=Unloaded, takes=Takes(schema=ShutdownBody, is_required=False), fails=[ModelNotFound], query=[ANY_MODEL])
def shutdown() -> Response:
    """Unload a model on every worker, once nobody uses it there; its next use loads it again. Refused for a pinned one.

    One that is still in use when the request has lasted long enough is answered with 503, and goes when it is idle.
    """
    given = _read(ShutdownBody)
    config = _named(given)
    if config.pinned and not given.force:
        message = f"the model {config.name!r} is pinned, so it stays loaded; `force: true` unloads it all the same"
        raise InvalidParameter(message, param="model")
    outcomes = list(_order("unload", config))
    if busy := sorted(outcome.worker for outcome in outcomes if outcome.state == "in use"):
        raise Unavailable(f"the model {config.name!r} is in use on {', '.join(busy)}; it goes when it is idle", retry_after_s=5)
    return _json({"model": config.name, "workers": {outcome.worker: outcome.state for outcome in outcomes}})


@blueprint.get("/system")
@describe(returns=System)
def get_system() -> Response:
    """The backends that the configuration names, the models that are loaded, and the live workers with their memory."""
    backends = sorted({config.backend for config in parts().registry})
    return _json(system(backends, umekomi_version(), parts().presence.workers()))


def _order(verb: Verb, config: ModelConfig) -> list[Outcome]:
    """What came of it on every live worker; of `load` up to the first that is ready. Raises NoWorker."""
    here = parts()
    workers = [worker.id for worker in here.presence.workers() if config.name in worker.models]
    command = Command(verb=verb, model=config.name, within_s=here.settings.interactive_timeout_s)
    outcomes: list[Outcome] = []
    for outcome in here.control.order(command, workers):
        outcomes.append(outcome)
        if verb == "load" and outcome.state == "ready":
            return outcomes
    heard = {outcome.worker for outcome in outcomes}
    if not heard or (verb == "unload" and any(here.presence.is_alive(worker) for worker in set(workers) - heard)):
        lacking = f"no live worker serves the model {config.name!r}" if not workers else "not every worker answered in time"
        raise NoWorker(lacking, retry_after_s=3)
    return outcomes


def _monitor(config: ModelConfig, workers: list[WorkerPresence]) -> ModelMonitor:
    return monitor(config, serve(config, workers, parts().registry_read_at).state, workers)


def _named(given: ModelBody) -> ModelConfig:
    """Raises InvalidParameter without a name, for the default model is not meant then; ModelNotFound."""
    if not given.model:
        raise InvalidParameter("model: the name of a model is needed", param="model")
    return parts().registry.get(given.model)


def _read(kind: type[Any]) -> Any:
    """The query string, or a body: JSON whatever its content type says, for curl -d says it is a form; or a form."""
    raw = Body(request, max_bytes=MAX_BODY_BYTES, too_large=f"the body is over {MAX_BODY_BYTES} bytes").read().strip()
    given: Mapping[str, Any] = {}
    if raw and (raw.startswith((b"{", b"[")) or request.mimetype != "application/x-www-form-urlencoded"):
        given = openai.read_object(raw)
    elif raw:
        given = {name: values[-1] for name, values in parse_qs(raw.decode("utf-8", "replace")).items()}
        given |= {"force": given["force"] == "true"} if "force" in given else {}
    if "model" in request.args:
        given = {**given, "model": request.args["model"]}
    if given.get("model") == "":
        raise InvalidParameter("model: must not be empty", param="model")
    return openai.read_fields(kind, given)


def _json(body: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(body), content_type=openai.JSON)
