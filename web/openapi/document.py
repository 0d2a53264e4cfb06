"""The document itself: OpenAPI 3.1, made of the app's routes and of what they say of themselves."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from flask import Flask
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from shared import errors
from shared.errors import UmekomiError
from shared.openai import ErrorBody, error_body
from web.failures import TooSlow, WrongMediaType, status_of
from web.openapi.operations import JSON, Header, Operation, Parameter, Returns, operation_of

OPENAPI = "3.1.0"
_CONVERTER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_REF = "#/components/schemas/{model}"

# On every response, whatever it is.
ALWAYS = (
    Header("x-request-id", "the id of the request: the one sent as `X-Request-Id`, or a new one; logs have it", is_always=True),
    Header("openai-processing-ms", "milliseconds until the response began", int, is_always=True),
)
OF_STATUS: dict[int, tuple[Header, ...]] = {
    401: (Header("WWW-Authenticate", "Bearer", is_always=True),),
    429: (
        Header("Retry-After", "whole seconds to wait: below 30, or below 120 where a key's rate is used up", int, is_always=True),
        Header("retry-after-ms", "the same in milliseconds", int, is_always=True),
    ),
    500: (Header("x-should-retry", "`false` if the same request fails again"),),
    503: (
        Header("Retry-After", "whole seconds to wait, below 30", int, is_always=True),
        Header("retry-after-ms", "the same in milliseconds", int, is_always=True),
    ),
}

# Where a request counts as one of the minute, if the caller has such a limit.
OF_RATES = tuple(
    Header(f"x-ratelimit-{what}-{kind}", f"{told}, as OpenAI tells it; not there without such a limit", schema)
    for kind in ("requests", "tokens")
    for what, told, schema in (
        ("limit", f"{kind} that the caller has in a minute", int),
        ("remaining", f"{kind} left now", int),
        ("reset", "when all of them are there again, such as `1s` or `6m0s`", str),
    )
)

# What any route may answer that wants a key, what any route may, and what any may that reads a body.
OF_KEYS: tuple[type[UmekomiError], ...] = (errors.Unauthorized,)
OF_ALL: tuple[type[UmekomiError], ...] = (UmekomiError, errors.LaneFull, errors.RedisAway, errors.StorageAway)
OF_BODIES: tuple[type[UmekomiError], ...] = (errors.BadRequest, TooSlow, errors.TooLarge, WrongMediaType)
OF_QUERIES: tuple[type[UmekomiError], ...] = (errors.InvalidParameter,)

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`, as OpenAI's clients send it"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "the key alone"},
}


@dataclass(frozen=True, slots=True)
class Route:
    """A method of a path, and the function that serves it."""

    method: str
    rule: str
    endpoint: str
    view: Callable[..., Any]

    @property
    def path(self) -> str:
        """As OpenAPI writes it."""
        return _CONVERTER.sub(r"{\1}", self.rule)

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return _CONVERTER.findall(self.rule)

    @property
    def blueprint(self) -> str:
        """Whose route it is."""
        return self.endpoint.rpartition(".")[0] or self.endpoint


def routes(app: Flask) -> list[Route]:
    """Every route; HEAD and OPTIONS, which come by themselves, are none."""
    return [
        Route(method, rule.rule, rule.endpoint, app.view_functions[rule.endpoint])
        for rule in app.url_map.iter_rules()
        if rule.rule == "/" or not rule.rule.endswith("/")  # the same once more
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]


class Document:
    """Made of an app's routes, whose blueprints named in `open_to_all` want no key.

    `is_counted`: whether requests of an endpoint and its blueprint count for a caller's rate; `is_hidden`: whether a path is
    not served after all.
    """

    def __init__(
        self,
        app: Flask,
        *,
        version: str,
        open_to_all: frozenset[str],
        is_counted: Callable[[str, str], bool],
        is_hidden: Callable[[str], bool],
    ) -> None:
        self._version = version
        self._open_to_all = open_to_all
        self._is_counted = is_counted
        served = (route for route in routes(app) if not is_hidden(route.path))
        self._routes = [(route, operation_of(route.view) or Operation()) for route in served]
        # Errors that several routes answer alike: their bytes -> their name and themselves.
        self._errors: dict[bytes, tuple[str, dict[str, Any]]] = {}

    def make(self, *, wants_keys: bool) -> dict[str, Any]:
        """The document, for orjson; `wants_keys` if the server has API keys."""
        schemas = _Schemas(self._schemas())
        paths: dict[str, dict[str, Any]] = {}
        ids: set[str] = set()
        for route, operation in self._routes:
            is_open = route.blueprint in self._open_to_all
            described = self._operation(route, operation, schemas, is_open)
            described["operationId"] = _unique(f"{route.endpoint.replace('.', '_')}", route, ids)
            if is_open or not wants_keys:
                described["security"] = []
            paths.setdefault(route.path, {})[route.method.lower()] = described
        return {
            "openapi": OPENAPI,
            "info": {
                "title": "umekomi",
                "version": self._version,
                "summary": "An embedding service with a queue",
                "description": "OpenAI's embeddings, files and batches, and jobs for whole corpora. Every error has OpenAI's "
                "body; every 429 and 503 says when to come back. HEAD works wherever GET does, OPTIONS everywhere.",
            },
            "tags": list(self._tags()),
            "security": [{name: []} for name in SECURITY_SCHEMES],
            "paths": paths,
            "components": {
                "schemas": schemas.definitions,
                "responses": dict(self._errors.values()),
                "securitySchemes": SECURITY_SCHEMES,
            },
        }

    def _schemas(self) -> Iterator[tuple[Any, JsonSchemaMode]]:
        for header in [*ALWAYS, *OF_RATES, *(header for headers in OF_STATUS.values() for header in headers)]:
            yield header.schema, "serialization"
        for _, operation in self._routes:
            yield operation.error, "serialization"
            for takes in operation.takes:
                yield takes.schema, "validation"
            for parameter in [*operation.query, *operation.headers]:
                yield parameter.schema, "validation"
            for returns in operation.returns:
                yield returns.schema, "serialization"
                for header in returns.headers:
                    yield header.schema, "serialization"

    def _tags(self) -> Iterator[dict[str, str]]:
        seen = set()
        for route, operation in self._routes:
            name = operation.tag or route.blueprint
            if name not in seen:
                seen.add(name)
                about = sys.modules[route.view.__module__].__doc__ or ""
                yield {"name": name, "description": about.strip().partition("\n")[0]}

    def _operation(self, route: Route, operation: Operation, schemas: _Schemas, is_open: bool) -> dict[str, Any]:
        summary, _, description = inspect.cleandoc(route.view.__doc__ or "").partition("\n")
        described: dict[str, Any] = {"summary": summary, "tags": [operation.tag or route.blueprint]}
        if description.strip():
            described["description"] = description.strip()
        parameters = [_path_parameter(name, operation.path.get(name, "")) for name in route.parameters]
        parameters += [_parameter(parameter, "query", schemas) for parameter in operation.query]
        parameters += [_parameter(parameter, "header", schemas) for parameter in operation.headers]
        if parameters:
            described["parameters"] = parameters
        if operation.takes:
            described["requestBody"] = {
                "required": any(takes.is_required for takes in operation.takes),
                "content": {
                    takes.media_type: _content(takes.schema, takes.example, schemas, "validation") for takes in operation.takes
                },
            }
        always = ALWAYS + OF_RATES if self._is_counted(route.endpoint, route.blueprint) else ALWAYS
        described["responses"] = self._shared(_responses(operation, _failures(operation, is_open), schemas, always))
        return described

    def _shared(self, responses: dict[str, Any]) -> dict[str, Any]:
        """The same, with references to errors instead of the errors."""
        shared = {}
        for status, response in responses.items():
            if status < "400":
                shared[status] = response
                continue
            name = f"Error{status}"
            same = sum(known.startswith(name) for known, _ in self._errors.values())
            name, _ = self._errors.setdefault(orjson.dumps(response), (f"{name}-{same + 1}" if same else name, response))
            shared[status] = {"$ref": f"#/components/responses/{name}"}
        return shared


def _failures(operation: Operation, is_open: bool) -> list[type[UmekomiError]]:
    found = [*operation.fails, *OF_ALL]
    if not is_open:
        found += OF_KEYS
    if operation.takes:
        found += OF_BODIES
    if operation.query:
        found += OF_QUERIES
    return found


def _responses(
    operation: Operation, failures: Sequence[type[UmekomiError]], schemas: _Schemas, always: Sequence[Header]
) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for returns in operation.returns:
        _add_success(responses.setdefault(str(returns.status), {}), returns, schemas, always)
    by_status: dict[int, list[type[UmekomiError]]] = {}
    for failure in dict.fromkeys(failures):
        by_status.setdefault(status_of(failure("")), []).append(failure)
    for status, kinds in sorted(by_status.items()):
        known = responses.setdefault(str(status), {"headers": _headers((*always, *OF_STATUS.get(status, ())), schemas)})
        known.setdefault("description", " ".join(_sentence(kind) for kind in kinds))
        content = known.setdefault("content", {}).setdefault(JSON, {})
        if "schema" not in content:
            content["schema"] = schemas.of(operation.error, "serialization")
        if operation.error is ErrorBody:
            content["examples"] = {kind.code: {"value": error_body(_sentence(kind), kind.code, None, status)} for kind in kinds}
    return responses


def _add_success(response: dict[str, Any], returns: Returns, schemas: _Schemas, always: Sequence[Header]) -> None:
    response.setdefault("description", returns.description or "As asked.")
    headers = _headers((*always, *OF_STATUS.get(returns.status, ()), *returns.headers), schemas)
    response.setdefault("headers", {}).update(headers)
    if returns.status not in (204, 304):
        content = _content(returns.schema, returns.example, schemas, "serialization")
        response.setdefault("content", {})[returns.media_type] = content


def _headers(headers: Sequence[Header], schemas: _Schemas) -> dict[str, Any]:
    return {
        header.name: {
            "description": header.description,
            "required": header.is_always,
            "schema": schemas.of(header.schema, "serialization"),
        }
        for header in headers
    }


def _content(schema: Any, example: Any, schemas: _Schemas, mode: JsonSchemaMode) -> dict[str, Any]:
    content: dict[str, Any] = {} if schema is None else {"schema": schemas.of(schema, mode)}
    if example is not None:
        content["example"] = example
    return content


def _parameter(parameter: Parameter, where: Literal["query", "header"], schemas: _Schemas) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": where,
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": schemas.of(parameter.schema, "validation"),
    }


def _path_parameter(name: str, description: str) -> dict[str, Any]:
    described = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return described | ({"description": description} if description else {})


def _sentence(kind: type[UmekomiError]) -> str:
    return inspect.cleandoc(kind.__doc__ or kind.code).partition("\n")[0]


def _unique(name: str, route: Route, seen: set[str]) -> str:
    if name in seen:
        name += "_" + re.sub(r"\W+", "_", route.path).strip("_")
    if name in seen:
        name += "_" + route.method.lower()
    seen.add(name)
    return name


class _Schemas:
    """The schemas of all that is described, and the definitions that they refer to."""

    def __init__(self, wanted: Iterator[tuple[Any, JsonSchemaMode]]) -> None:
        inputs: list[Any] = []
        self._keys = dict[tuple[int, str], int]()
        self._kept = []  # so that no id is given twice
        for schema, mode in wanted:
            if schema is None or isinstance(schema, Mapping) or (id(schema), mode) in self._keys:
                continue
            self._kept.append(schema)
            self._keys[id(schema), mode] = len(inputs)
            inputs.append((len(inputs), mode, TypeAdapter(schema)))
        self._made, found = TypeAdapter.json_schemas(inputs, ref_template=_REF, schema_generator=GenerateJsonSchema)
        self.definitions: dict[str, Any] = found.get("$defs", {})

    def of(self, schema: Any, mode: JsonSchemaMode) -> Any:
        """The schema, mostly a reference."""
        if isinstance(schema, Mapping):
            return schema
        return self._made[self._keys[id(schema), mode], mode]
