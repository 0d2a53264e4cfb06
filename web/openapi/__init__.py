"""The OpenAPI document: what each route says of itself beside its code, and what is made of all of it."""

from web.openapi.document import Document, Route
from web.openapi.operations import Header, Operation, Parameter, Returns, Takes, describe, operation_of, parameters_of

__all__ = [
    "Document",
    "Header",
    "Operation",
    "Parameter",
    "Returns",
    "Route",
    "Takes",
    "describe",
    "operation_of",
    "parameters_of",
]
