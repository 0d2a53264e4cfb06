"""Settings: variables and flags, wrong values by name, and no secret in what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.settings import SECRET, Settings, WrongSettings, default_data_dir, load_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("UMEKOMI_"):
            monkeypatch.delenv(name)


# variable -> (value, what it becomes), one line per setting
GOOD: dict[str, tuple[str, Any]] = {
    "address": ("0.0.0.0:80", "0.0.0.0:80"),
    "data_dir": ("/var/lib/umekomi", Path("/var/lib/umekomi")),
    "engines_dir": ("/var/lib/engines", Path("/var/lib/engines")),
    "config_file": ("/etc/models.yaml", Path("/etc/models.yaml")),
    "models_path": ("/models", Path("/models")),
    "redis_url": ("unix:///run/valkey.sock?db=1", "unix:///run/valkey.sock?db=1"),
    "storage_url": ("s3://bucket/prefix", "s3://bucket/prefix"),
    "api_keys_file": ("/etc/keys.json", Path("/etc/keys.json")),
    "localai_config_dir": ("/configuration", Path("/configuration")),
    "cors": ("true", True),
    "cors_allow_origins": ("https://A.example.com, *", ("https://a.example.com", "*")),
    "limit_requests_per_minute": ("60", 60),
    "limit_tokens_per_minute": ("1000", 1000),
    "limit_jobs": ("2", 2),
    "limit_stored_bytes": ("1000000", 1_000_000),
    "interactive_timeout_s": ("2.5", 2.5),
    "interactive_max_waiting": ("7", 7),
    "interactive_max_waiting_bytes": ("1000000", 1_000_000),
    "max_inputs": ("10", 10),
    "max_request_bytes": ("4096", 4096),
    "max_text_bytes": ("4096", 4096),
    "max_upload_bytes": ("2000000", 2_000_000),
    "shard_seconds": ("1", 1.0),
    "max_shard_rows": ("100", 100),
    "window": ("3", 3),
    "lease_s": ("5", 5.0),
    "resend_after_s": ("5", 5.0),
    "reconcile_interval_s": ("0.5", 0.5),
    "max_attempts": ("1", 1),
    "device": ("cuda:1", "cuda:1"),
    "streams": ("4", 4),
    "max_batch_tokens": ("4096", 4096),
    "varlen": ("false", False),
    "batch_target_ms": ("50", 50.0),
    "shards_at_once": ("1", 1),
    "web_processes": ("2", 2),
    "web_threads": ("8", 8),
    "log_level": ("DEBUG", "debug"),
    "log_format": ("Json", "json"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_variable_sets_its_field(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, becomes = GOOD[name]
    monkeypatch.setenv(f"UMEKOMI_{name.upper()}", value)

    assert getattr(load_settings(), name) == becomes


def test_every_setting_has_a_description_and_a_test() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
    assert GOOD.keys() <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("address", "8080"),
        ("address", "host:"),
        ("address", "host:99999"),
        ("address", "host:-1"),
        ("address", "host:٣"),
        ("address", "a b:80"),
        ("address", "::1:80"),
        ("redis_url", "localhost:6379"),
        ("redis_url", "http://localhost"),
        ("interactive_timeout_s", "0"),
        ("interactive_timeout_s", "soon"),
        ("interactive_timeout_s", "nan"),
        ("lease_s", "inf"),
        ("batch_target_ms", "nan"),
        ("max_inputs", "1.5"),
        ("max_inputs", "0"),
        ("window", "65"),
        ("web_threads", "-1"),
        ("cors_allow_origins", "example.com"),
        ("cors_allow_origins", "https://example.com/path"),
        ("limit_jobs", "-1"),
        ("log_level", "loud"),
        ("webhook_secret", "whsec_%%%"),
        ("jobs_expire_after_s", "-1"),
    ],
)
def test_a_wrong_value_ends_the_process_with_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"UMEKOMI_{name.upper()}", value)

    with pytest.raises(WrongSettings) as raised:
        load_settings()

    assert isinstance(raised.value, SystemExit)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"UMEKOMI_{name.upper()}: ")
    assert (repr(value) in line) == (name not in SECRET)


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEKOMI_WINDOW", "x")
    monkeypatch.setenv("UMEKOMI_LOG_LEVEL", "x")

    with pytest.raises(WrongSettings) as raised:
        load_settings(max_inputs=-1)

    assert {line.split(":")[0] for line in str(raised.value).splitlines()} == {
        "UMEKOMI_WINDOW",
        "UMEKOMI_LOG_LEVEL",
        "UMEKOMI_MAX_INPUTS",
    }


def test_secrets_are_in_no_error_and_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEKOMI_API_KEYS", "hunter1, hunter2 ,,")
    monkeypatch.setenv("UMEKOMI_REDIS_URL", "redis://:hunter3@host/0")
    monkeypatch.setenv("UMEKOMI_STORAGE_URL", "s3://hunter4:hunter5@bucket")

    settings = load_settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["hunter1", "hunter2"]
    assert "hunter" not in repr(settings) + str(settings)

    monkeypatch.setenv("UMEKOMI_REDIS_URL", "http://:hunter3@host/0")
    with pytest.raises(WrongSettings) as raised:
        load_settings(api_keys=("hunter1", 5))
    assert "UMEKOMI_REDIS_URL" in str(raised.value)
    assert "UMEKOMI_API_KEYS" in str(raised.value)
    assert "hunter" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_flags_win_over_variables_and_none_is_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEKOMI_WINDOW", "5")
    monkeypatch.setenv("UMEKOMI_MAX_INPUTS", "6")

    settings = load_settings(window=7, max_inputs=None)

    assert (settings.window, settings.max_inputs) == (7, 6)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = getattr(load_settings(), name)
    monkeypatch.setenv(f"UMEKOMI_{name.upper()}", "")

    assert getattr(load_settings(), name) == default


def test_defaults_are_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "umekomi"
    assert load_settings().storage == str(tmp_path / "umekomi" / "storage")
    assert load_settings(storage_url="s3://b").storage == "s3://b"
    assert load_settings().broker == "redis://127.0.0.1:6379/0"
    assert load_settings(redis_url="redis://x/1").broker == "redis://x/1"


@pytest.mark.parametrize(("value", "becomes"), [(":80", "0.0.0.0:80"), ("[::1]:80", "[::1]:80"), ("localhost:0", "localhost:0")])
def test_addresses_are_understood(value: str, becomes: str) -> None:
    assert load_settings(address=value).address == becomes


def test_a_home_directory_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UMEKOMI_DATA_DIR", "~/data")
    monkeypatch.setenv("UMEKOMI_CONFIG_FILE", "models.yaml")
    monkeypatch.chdir(tmp_path)

    assert load_settings().data_dir == tmp_path / "data"
    assert load_settings().config_file == tmp_path / "models.yaml"
