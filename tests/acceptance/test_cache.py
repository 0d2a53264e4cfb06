"""A corpus that comes again, a little changed: only what changed is embedded, and the rest is what it was, to the bit."""

from __future__ import annotations

import json

from tests.acceptance.conftest import Encode
from tests.acceptance.test_bulk import check_all, records, results, submit, wait_finished
from tests.support.service import Service
from tests.support.texts import some_texts

CACHE = {"cache": "true"}


def rows_embedded(service: Service, job_id: str) -> int:
    """As the workers' logs tell."""
    lines = [line for log in service.directory.glob("logs/*-worker.log") for line in log.read_text().splitlines()]
    told = [json.loads(line) for line in lines if '"shard embedded"' in line and job_id in line]
    return sum(line["rows"] - line["deduplicated"] for line in told)


def test_a_corpus_that_comes_again_embeds_what_changed(service: Service, encode: Encode) -> None:
    texts = some_texts(200, 31)
    first = wait_finished(service, submit(service, records(texts), params=CACHE)["id"])
    assert first["counts"]["deduplicated"] == 0
    changed = [f"{text} changed" if n in (17, 150) else text for n, text in enumerate(texts)]
    service.kill_worker()
    service.start_worker()  # another process finds in storage what the first one kept
    again = wait_finished(service, submit(service, records(changed), params=CACHE)["id"])
    assert again["cache"] is True
    assert again["counts"]["deduplicated"] == 198
    assert rows_embedded(service, again["id"]) == 2
    check_all(service, again["id"], changed, encode)
    pairs = zip(results(service, first["id"]), results(service, again["id"]), strict=True)
    assert [n for n, (one, other) in enumerate(pairs) if one["embedding"] != other["embedding"]] == [17, 150]


def test_equal_texts_of_a_job_are_embedded_once(service: Service, encode: Encode) -> None:
    texts = some_texts(20, 32) * 6
    done = wait_finished(service, submit(service, records(texts), params={"dedupe": "true"})["id"])
    assert done["counts"]["deduplicated"] == 100
    check_all(service, done["id"], texts, encode)
    assert not (service.storage / "jobs" / done["id"] / "vectors").exists()
