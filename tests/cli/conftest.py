"""A fake API to talk to, and the command line in this process with a clean environment."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.support.api import FakeApi, running_api
from tests.support.commands import Run


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with running_api() as server:
        yield server


@pytest.fixture(autouse=True)
def no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("UMEKOMI_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run() -> Run:
    """`umekomi ARGUMENTS…`; the result has exit_code, stdout, stderr."""

    def invoke(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, prog_name="umekomi")

    return invoke


@pytest.fixture
def ask(run: Run, api: FakeApi) -> Run:
    """The same, talking to the fake API."""
    return lambda *arguments, stdin=None: run(*arguments, "--url", api.url, stdin=stdin)
