"""One service with the real model for everything that the documents show, and a directory of its own for each page."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.support.service import Service, running_service

WEBHOOK_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
# curl as in the page, but that a 4xx or 5xx fails it.
_CURL = '#!/bin/sh\nexec "{curl}" --fail-with-body --silent --show-error "$@"\n'


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """What `umekomi serve` runs, at a port that is free."""
    with running_service(
        tmp_path_factory.mktemp("docs"), shard_seconds=0.5, interactive_timeout_s=55, webhook_secret=WEBHOOK_SECRET
    ) as service:
        yield service


@pytest.fixture
def environment(service: Service, tmp_path: Path) -> dict[str, str]:
    """Of whatever runs a block: the service where the page says 127.0.0.1:8080, and nothing of the one who runs the tests."""
    (tmp_path / "bin").mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        if (Path(directory) / "curl").is_file():
            curl = tmp_path / "bin" / "curl"
            curl.write_text(_CURL.format(curl=Path(directory) / "curl"))
            curl.chmod(0o755)
            break
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "node_modules").symlink_to(ROOT / "tests" / "clients" / "node" / "node_modules")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "UMEKOMI", "LOCALAI"))}
    return kept | {
        "PATH": os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "UMEKOMI_URL": service.url,
        "UMEKOMI_DATA_DIR": str(tmp_path / "data"),
        "SECRET": WEBHOOK_SECRET,
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LANGSMITH_TRACING": "false",
    }
