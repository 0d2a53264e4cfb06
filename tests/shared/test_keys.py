"""The table of Redis keys is the whole truth: it names every key, and nobody else spells one."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from shared import keys

ROOT = Path(__file__).parents[2]
ARGUMENTS = {"model": "MODEL", "web_id": "WEB", "worker_id": "WORKER", "job_id": "JOB", "owner": "OWNER", "shard": "SHARD"} | {
    "name": "NAME",
    "length": "LENGTH",
    "command_id": "COMMAND",
    "download_id": "ID",
    "digest": "DIGEST",
}


def keys_of_the_module() -> set[str]:
    """Every key that the module's constants and functions spell, as the table writes it."""
    found = {value for name, value in vars(keys).items() if name.isupper() and name not in ("PREFIX", "ASK_GROUP")}
    for name, function in inspect.getmembers(keys, inspect.isfunction):
        assert function.__doc__, name
        found.add(function(*(ARGUMENTS[argument] for argument in inspect.signature(function).parameters)))
    return found


def test_the_table_names_every_key_and_no_other() -> None:
    table = re.findall(r"^\| (umekomi\S+) \|", keys.__doc__ or "", re.MULTILINE)

    assert len(table) == len(set(table))
    assert set(table) == keys_of_the_module()


def test_every_line_of_the_table_tells_type_meaning_and_expiry() -> None:
    types = {"stream", "string", "sorted set", "hash", "list", "set", "channel"}
    for line in (keys.__doc__ or "").splitlines():
        if line.startswith("| umekomi"):
            _, kind, meaning, expiry = (cell.strip() for cell in line.strip("|").split("|"))
            assert kind in types, line
            assert meaning, line
            assert expiry, line


def test_nobody_else_spells_a_key() -> None:
    # `umekomi.{name}` is what traces call an attribute.
    spelled = re.compile(r"[\"']umekomi[:.](?!embed_shard|counts|deduplicated|jobs\.|test|\{name\}\" if)")
    for folder in ("shared", "web", "worker", "cli"):
        for file in (ROOT / folder).rglob("*.py"):
            if file != Path(keys.__file__):
                assert not spelled.search(file.read_text(encoding="utf-8")), file


def test_keys_of_different_things_never_meet() -> None:
    assert keys.lease("job_1", 11) != keys.lease("job_1/1", 1)
    assert len({keys.asks("m"), keys.asks_bytes("m"), keys.able("m"), keys.in_flight("m")}) == 4
    # A model's lane lies in one slot of a Redis cluster.
    for key in (keys.asks, keys.asks_bytes, keys.able):
        assert "{org/model}" in key("org/model")
