"""Whether the OpenAPI document is true: schemathesis calls every route with all that it allows and much that it forbids."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from flask import Flask
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from shared.jobs.wire import JOBS
from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, model, registry
from web.openapi.document import routes

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
STATEFUL = f"^{JOBS}(/|$)|(tokenize|decode|rerank|embed|/)$|^/models/|backend/"
NOT_OF_THE_DOUBLE = "(tokenize|decode|backend/load|backend/shutdown)$"
# More of it by hand: SCHEMATHESIS_EXAMPLES=200 pytest tests/web/test_schemathesis.py
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "1"))
if EXAMPLES > 1:
    # To a schema 1.0 is an integer, to us it is none; a key may have been used before, a range lie behind the end.
    STATEFUL += "|/embeddings$|/v1/batches$|/v1/files"


def other_spellings(app: Flask) -> list[str]:
    """Paths of functions that an earlier path leads to as well."""
    seen, found = set(), []
    for route in sorted(routes(app), key=lambda route: route.path):
        if (route.view, route.method) in seen:
            found.append(route.path)
        seen.add((route.view, route.method))
    return found


def findings(app: Flask, **options: Any) -> list[str]:
    """Everything that a response has other than it is described, with a curl to see it."""
    config = SchemathesisConfig.from_dict(
        {
            "seed": 4,
            "workers": 1,
            "continue-on-failure": True,
            "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none", "no-shrink": True},
            "operations": [
                # What is asked for may be right and yet not be possible: as the job stands, as the model or its input is.
                {"include-path-regex": STATEFUL, "checks": {"positive_data_acceptance": {"enabled": False}}},
                # GET of a path whose last part is a variable is another path of the document.
                {"include-path-regex": "^/models/", "checks": {"allow_header_conformance": {"enabled": False}}},
                # The double does not tokenize, nor does it load and unload: 503.
                {"include-path-regex": NOT_OF_THE_DOUBLE, "checks": {"not_a_server_error": {"enabled": False}}},
            ],
            "phases": {"stateful": {"enabled": False}, "fuzzing": {"enabled": True}, "coverage": {"enabled": True}},
        }
        | options
    )
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, config=config)
    schema = schema.exclude(path_regex="/events$")  # those of a job that runs do not end
    if EXAMPLES == 1:
        schema = schema.exclude(path=other_spellings(app))
    found = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            found.append(repr(getattr(event, "info", None) or getattr(event, "exception", event)))
        if isinstance(event, events.ScenarioFinished) and event.status in (Status.FAILURE, Status.ERROR):
            for case_id, checks in event.recorder.checks.items():
                for check in checks:
                    if check.failure_info is not None:
                        info = check.failure_info
                        told = event.recorder.interactions[case_id].response
                        body = told.content[:300].decode(errors="replace") if told is not None else ""
                        found.append(f"{event.label} {check.name}: {info.failure.message}\n  {body}\n  {info.code_sample}")
    return found


@pytest.fixture
def served(make_app: MakeApp) -> Flask:
    """An app whose first model takes token ids too."""
    return make_app(models=registry(model("m", token_ids="model")), webhook_secret=SECRET)


def test_schemathesis_finds_nothing(served: Flask, answering: AnsweringWorker) -> None:
    found = findings(served)
    assert not found, f"{len(found)} findings\n\n" + "\n\n".join(dict.fromkeys(found))
