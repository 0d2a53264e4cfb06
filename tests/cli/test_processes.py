"""What the started processes read."""

from __future__ import annotations

from pathlib import Path

from cli.processes import environment
from shared.settings import Settings


def test_a_secret_travels_whole_and_not_as_stars(tmp_path: Path) -> None:
    variables = environment(Settings(data_dir=tmp_path, webhook_secret="whsec_AAAA", webhook_allow_private=True))
    assert variables["UMEKOMI_WEBHOOK_SECRET"] == "whsec_AAAA"
    assert Settings(webhook_allow_private=variables["UMEKOMI_WEBHOOK_ALLOW_PRIVATE"]).webhook_allow_private


def test_a_list_travels_as_it_is_written(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path, cors_allow_origins="https://a.example,https://b.example")
    variables = environment(given)
    assert Settings(cors_allow_origins=variables["UMEKOMI_CORS_ALLOW_ORIGINS"]).cors_allow_origins == given.cors_allow_origins
