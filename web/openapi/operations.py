"""What a route says of itself: what it takes, what it returns, how it fails. Nothing here takes part in serving a request.

    @blueprint.get("/v1/things/<thing_id>")
    @describe(returns=ThingObject, fails=[NotFound], path={"thing_id": "as its creation gave it"})
    def get(thing_id: str) -> Response:
        \"\"\"The thing as it stands.\"\"\"

The docstring's first line is the summary, the rest the description; the blueprint is the tag. A schema is whatever pydantic
makes one of: a model, a TypedDict, an annotated type. What every route has in common (401, 429, 500, 503, `x-request-id`, and
400, 408, 413, 415 where there is a body) is added by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, TypeVar, Union, cast, get_args

from pydantic import BaseModel

from shared.errors import UmekomiError
from shared.openai import ErrorBody

JSON = "application/json"
# What pydantic makes a schema of, or the schema itself.
Schema = Any
View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "__operation__"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the query string, or a header of the request."""

    name: str
    schema: Schema
    description: str
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """A header of the response; `is_always` promises it."""

    name: str
    description: str
    schema: Schema = str
    is_always: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Takes:
    """A body of the request in one media type; without a schema it is bytes."""

    schema: Schema = None
    media_type: str = JSON
    example: Any = None
    is_required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Returns:
    """A success in one media type; without a schema it is bytes."""

    schema: Schema = None
    status: int = 200
    media_type: str = JSON
    description: str = ""
    headers: Sequence[Header] = ()
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Everything a route says of itself."""

    takes: Sequence[Takes] = ()
    returns: Sequence[Returns] = ()
    fails: Sequence[type[UmekomiError]] = ()
    query: Sequence[Parameter] = ()
    headers: Sequence[Parameter] = ()
    path: Mapping[str, str] = field(default_factory=dict)
    tag: str | None = None
    error: Schema = ErrorBody


def describe(
    *,
    returns: Schema | Returns | Sequence[Returns],
    takes: Schema | Takes | Sequence[Takes] = (),
    fails: Sequence[type[UmekomiError]] = (),
    query: Sequence[Parameter] = (),
    headers: Sequence[Parameter] = (),
    path: Mapping[str, str] | None = None,
    tag: str | None = None,
    error: Schema = ErrorBody,
) -> Callable[[View], View]:
    """Write an operation beside a view function, which stays as it is; several routes of it share the operation.

    `error` is the body of its errors, OpenAI's unless another API has another one.
    """

    def note(view: View) -> View:
        operation = Operation(
            takes=_many(takes, Takes),
            returns=_many(returns, Returns),
            fails=tuple(fails),
            query=tuple(query),
            headers=tuple(headers),
            path=dict(path or {}),
            tag=tag,
            error=error,
        )
        setattr(view, _ATTRIBUTE, operation)
        return view

    return note


def parameters_of(model: type[BaseModel], **instead: Schema) -> list[Parameter]:
    """A query parameter for each field of a model, which is not given rather than null; `instead` has other schemas for some."""
    return [
        Parameter(name, instead.get(name) or _given(field.annotation, field.metadata), field.description or "")
        for name, field in model.model_fields.items()
    ]


def _given(annotation: Any, metadata: list[Any]) -> Schema:
    """The type of a field without its None."""
    kinds = tuple(kind for kind in get_args(annotation) if kind is not NoneType)
    if NoneType in get_args(annotation):
        annotation = Union[kinds]  # noqa: UP007 - of as many as there are
    return Annotated[(annotation, *metadata)] if metadata else annotation


def operation_of(view: Callable[..., Any]) -> Operation | None:
    """What `describe` wrote; None if nobody did."""
    return cast("Operation | None", getattr(view, _ATTRIBUTE, None))


def _many(given: Any, kind: type[Any]) -> tuple[Any, ...]:
    """One, several, or the schema of one."""
    if isinstance(given, kind):
        return (given,)
    if isinstance(given, list | tuple):
        return tuple(given)
    return (kind(schema=given),)
