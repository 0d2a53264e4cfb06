"""More questions than the server can take, on the real processes: each ends in an answer or in when to come back."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.overload import MODELS, idle_within, storm
from tests.support.service import Service, running_service


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A lane of four asks, and fewer threads than clients."""
    options = {"interactive_max_waiting": 4, "web_threads": 32, "interactive_timeout_s": 25}
    with running_service(tmp_path_factory.mktemp("small"), models=MODELS, **options) as service:
        yield service


def test_every_request_of_a_hundred_clients_ends_in_an_answer_or_in_429(small: Service) -> None:
    outcome = storm(small.url, clients=100, requests=8)

    assert outcome.failures == []
    assert set(outcome.statuses) == {200, 429}
    assert sum(outcome.statuses.values()) == 800
    assert outcome.without_retry_headers == 0
    idle_within(small, 20)
    assert httpx.post(f"{small.url}/v1/embeddings", json={"input": "text"}, timeout=20).status_code == 200


def test_clients_that_come_back_when_they_are_told_are_all_answered(small: Service) -> None:
    outcome = storm(small.url, clients=20, requests=3, is_patient=True)

    assert (outcome.failures, dict(outcome.statuses)) == ([], {200: 60})
