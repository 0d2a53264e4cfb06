"""A running server: does it answer, what is it missing, and is everybody of the same version?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import click

from cli.client import ApiClient, Refused
from cli.doctor.finding import Finding, fail, ok, warn
from shared.build import umekomi_version

ABOUT = "server"
TIMEOUT_S = 10.0


def check_server(url: str, api_key: str | None) -> Iterator[Finding]:
    """What /readyz and /version say."""
    with closing(ApiClient(url, api_key, timeout_s=TIMEOUT_S)) as client:
        try:
            status, body = client.readiness()
        except click.ClickException as error:
            yield fail(ABOUT, error.message, "start it, or correct --url (UMEKOMI_URL)")
            return
        yield from judge(client.url, status, body)
        try:
            wire = client.call("GET", "/version")
        except Refused as refused:
            if refused.status in (401, 403):
                yield warn(ABOUT, "does not take this API key", "set --api-key (UMEKOMI_API_KEY)")
            return
        except click.ClickException:
            return
        yield from judge_version(str(wire.get("version", "")) if isinstance(wire, Mapping) else "")


def judge(url: str, status: int, body: Mapping[str, Any]) -> Iterator[Finding]:
    """The answer of /readyz."""
    missing = body.get("missing")
    if not isinstance(missing, list):
        yield fail(ABOUT, f"{url} answers {status}, but is no umekomi", "correct --url (UMEKOMI_URL)")
        return
    models = body.get("models")
    coming = (
        [name for name, model in models.items() if model.get("state") in ("loading", "downloading")]
        if isinstance(models, dict)
        else []
    )
    for sentence in map(str, missing):
        if any(f"the model {name} is " in sentence for name in coming):
            yield warn(ABOUT, sentence, "wait; `umekomi top` shows how far it is")
            continue
        yield fail(ABOUT, sentence, "its log says more; doctor without --url looks at Redis, storage and models here")
    for problem in body.get("problems") or []:
        yield warn(ABOUT, str(problem), "correct the line; a running server takes it over")
    if not missing:
        yield ok(ABOUT, f"{url} is ready")


def judge_version(theirs: str) -> Iterator[Finding]:
    """Theirs against ours."""
    ours = umekomi_version()
    if theirs and theirs != ours:
        yield warn(ABOUT, f"runs umekomi {theirs}, this is {ours}", "let both be of one version")
    elif theirs:
        yield ok(ABOUT, f"runs umekomi {theirs}, as this")
