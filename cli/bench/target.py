"""Target: the route, the model and the headers of the server that is measured, found by asking it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from cli.client import ApiClient, Refused

# The first request may have to wait until the model is loaded.
FIRST_ANSWER_S = 300.0
# OpenAI's route, and infinity's.
ROUTES = ("/v1/embeddings", "/embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go."""

    url: str  # of the route
    model: str | None  # None: the server is not told one
    shown_model: str
    dimensions: int | None


def find_target(client: ApiClient, model: str | None, encoding: str) -> Target:
    """Ask for one vector; this loads the model too. Raises Refused, TryAgain, UsageError."""
    if model is None:
        model = _only_model(client)
    body: dict[str, Any] = {"input": "warm-up", "encoding_format": encoding}
    if model is not None:
        body["model"] = model
    for route in ROUTES:
        try:
            wire = client.call("POST", route, json=body, timeout=FIRST_ANSWER_S)
        except Refused as refused:
            if refused.status not in (404, 405) or refused.code == "model_not_found" or route == ROUTES[-1]:
                raise
            continue
        return Target(
            url=client.url + route, model=model, shown_model=_name(wire) or model or "?", dimensions=_dimensions(wire, encoding)
        )
    raise AssertionError("the last route returns or raises")


def _only_model(client: ApiClient) -> str | None:
    """The server's model if it has just one; None if it does not say, or if it is an umekomi, which has a default."""
    try:
        found = [model for model in client.models() if model.get("kind", "embed") == "embed"]
    except (Refused, KeyError, TypeError, AttributeError):
        return None
    names = [str(model["id"]) for model in found if "id" in model]
    if len(names) == 1:
        return names[0]
    if not names or all(model.get("owned_by") == "umekomi" for model in found):
        return None
    some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    raise click.UsageError(f"{client.url} serves several models: {some}. Choose one with --model")


def _name(wire: Any) -> str | None:
    name = wire.get("model") if isinstance(wire, Mapping) else None
    return name if isinstance(name, str) and name else None


def _dimensions(wire: Any, encoding: str) -> int | None:
    """Raises Refused if it is no answer with a vector."""
    try:
        vector = wire["data"][0]["embedding"]
    except (KeyError, IndexError, TypeError):
        raise Refused("the server's answer has no embedding; is --url an OpenAI-compatible server?") from None
    if isinstance(vector, list):
        return len(vector)
    # float32 in base64, 4 characters for 3 bytes.
    return (len(vector) * 3 // 4 - vector.count("=")) // 4 if isinstance(vector, str) and encoding == "base64" else None
