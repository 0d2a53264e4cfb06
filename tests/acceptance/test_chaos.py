"""Every fault at once and again, while jobs come in and questions are asked: nothing accepted is lost, doubled or wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chaos import Chaos, expected_vectors, installation


@pytest.mark.timeout(400)
def test_nothing_accepted_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    with installation(tmp_path, workers=2, megabytes=64) as (service, disk):
        chaos = Chaos(service, expected_vectors, seed=1, disk=disk)
        account = chaos.run(60, rows=(100, 1500))
        print(account.table())
    assert account.rows > 0
    assert (account.lost, account.doubled, account.wrong) == (0, 0, 0)
    assert account.wrong_answers == []
    assert account.orphans == []
    assert account.asks["200"] > 0
