"""`umekomi keys`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.access import KnownKeys
from tests.support.commands import Run


def test_a_key_is_made_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    made = run("keys", "create", "--name", "alice", "--limit-requests", 5, "--limit-tokens", 0, "--data-dir", tmp_path)
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()

    entry = KnownKeys([], keys_file=tmp_path / "keys.json").find([key])
    assert entry is not None
    assert (entry.name, entry.role) == ("alice", "embed")
    assert (entry.limits.requests_per_minute, entry.limits.tokens_per_minute, entry.limits.jobs) == (5, 0, None)

    listed = run("keys", "list", "--data-dir", tmp_path)
    for told in (entry.id, "alice", "embed", key[-4:]):
        assert told in listed.stdout
    assert key not in listed.stdout
    told = json.loads(run("keys", "list", "--json", "--data-dir", tmp_path).stdout)
    assert (told["id"], "sha256" in told) == (entry.id, False)

    assert run("keys", "revoke", "alice", "--data-dir", tmp_path).exit_code == 0
    assert run("keys", "list", "--json", "--data-dir", tmp_path).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("create",), 2),
        (("create", "--name", " "), 2),
        (("create", "--name", "a\nb"), 2),
        (("create", "--name", "a", "--role", "king"), 2),
        (("create", "--name", "a", "--limit-jobs", "-1"), 2),
        (("revoke", "nobody"), 1),
        (("create", "--name", "taken"), 1),
    ],
)
def test_a_mistake_is_told_in_a_line_and_changes_nothing(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], exit_code: int
) -> None:
    run("keys", "create", "--name", "taken", "--data-dir", tmp_path)
    before = (tmp_path / "keys.json").read_bytes()

    result = run("keys", *arguments, "--data-dir", tmp_path)

    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert "Error" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "keys.json").read_bytes() == before


def test_a_broken_file_and_an_impossible_directory_are_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[")
    result = run("keys", "list", "--data-dir", tmp_path)
    assert (result.exit_code, "not JSON" in result.stderr) == (1, True)

    result = run("keys", "create", "--name", "a", "--data-dir", tmp_path / "keys.json" / "below")
    assert result.exit_code == 1
    assert "Error" in result.stderr
