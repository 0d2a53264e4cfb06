"""LocalAI's variables as settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shared.localai import OPTIONS, PREFIX, duration_s, from_variables, known_variables, megabytes, names
from shared.settings import ENV_PREFIX, Settings, WrongSettings, load_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith((ENV_PREFIX, PREFIX)) or name in known_variables():
            monkeypatch.delenv(name)


# LocalAI's variable without its prefix -> (value, our setting, what it becomes): the rows of docs/from-localai.md
VARIABLES: dict[str, tuple[str, str, Any]] = {
    "ADDRESS": (":40080", "address", "0.0.0.0:40080"),
    "MODELS_PATH": ("/models", "models_path", Path("/models")),
    "CONFIG_FILE": ("/config.yaml", "config_file", Path("/config.yaml")),
    "MODELS_CONFIG_FILE": ("/config.yaml", "config_file", Path("/config.yaml")),
    "DATA_PATH": ("/data", "data_dir", Path("/data")),
    "API_KEY": ("one,two", "api_keys", ("one", "two")),
    "CORS": ("true", "cors", True),
    "CORS_ALLOW_ORIGINS": (
        "https://a.example,https://b.example",
        "cors_allow_origins",
        ("https://a.example", "https://b.example"),
    ),
    "UPLOAD_LIMIT": ("20", "max_request_bytes", 20 * 2**20),
    "PRELOAD_MODELS": ("a,b", "preload_models", ("a", "b")),
    "LOAD_TO_MEMORY": ("a,b", "preload_models", ("a", "b")),
    "SINGLE_ACTIVE_BACKEND": ("true", "single_active_backend", True),
    "MAX_ACTIVE_BACKENDS": ("2", "max_active_backends", 2),
    "WATCHDOG_IDLE": ("true", "watchdog_idle", True),
    "WATCHDOG_IDLE_TIMEOUT": ("1h30m", "watchdog_idle_timeout_s", 5400.0),
    "WATCHDOG_BUSY": ("true", "watchdog_busy", True),
    "WATCHDOG_BUSY_TIMEOUT": ("5m", "watchdog_busy_timeout_s", 300.0),
    "PRELOAD_BACKEND_ONLY": ("true", "preload_backend_only", True),
    "THREADS": ("4", "threads", 4),
    "CONTEXT_SIZE": ("512", "context_size", 512),
    "F16": ("true", "f16", True),
    "DISABLE_WEBUI": ("true", "disable_webui", True),
    "DISABLE_METRICS_ENDPOINT": ("true", "disable_metrics_endpoint", True),
    "MACHINE_TAG": ("box-7", "machine_tag", "box-7"),
}
# These are too common to be read without the prefix.
PREFIXED = {
    "LOCALAI_CONFIG_DIR": ("/etc/localai", "localai_config_dir", Path("/etc/localai")),
    "LOCALAI_LOG_LEVEL": ("warn", "log_level", "warning"),
    "LOCALAI_LOG_FORMAT": ("text", "log_format", "human"),
    "LOCALAI_DEBUG": ("true", "log_level", "debug"),
}


@pytest.mark.parametrize("name", [*VARIABLES, *(PREFIX + name for name in VARIABLES), *PREFIXED])
def test_a_variable_of_localai_is_a_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, setting, becomes = PREFIXED[name] if name in PREFIXED else VARIABLES[name.removeprefix(PREFIX)]
    monkeypatch.setenv(name, value)

    found = getattr(load_settings(), setting)

    assert (tuple(key.get_secret_value() for key in found) if setting == "api_keys" else found) == becomes
    assert from_variables(os.environ).without_meaning == ()


def test_ours_wins_then_the_prefixed_one_and_an_empty_one_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADS", "1")
    assert load_settings().threads == 1
    monkeypatch.setenv("LOCALAI_THREADS", "2")
    assert load_settings().threads == 2
    monkeypatch.setenv("UMEKOMI_THREADS", "")
    assert load_settings().threads == 2
    monkeypatch.setenv("UMEKOMI_THREADS", "3")
    assert load_settings().threads == 3
    assert load_settings(threads="4").threads == 4


def test_a_wrong_value_is_told_by_the_name_it_was_given_under(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALAI_WATCHDOG_IDLE_TIMEOUT", "soon")
    monkeypatch.setenv("UPLOAD_LIMIT", "many")

    with pytest.raises(WrongSettings) as raised:
        load_settings()

    lines = str(raised.value).splitlines()
    assert {line.split(":")[0] for line in lines} == {"LOCALAI_WATCHDOG_IDLE_TIMEOUT", "UPLOAD_LIMIT"}
    assert any("'soon'" in line for line in lines)


def test_variables_without_meaning_are_named_and_other_peoples_are_not() -> None:
    given = {"LOCALAI_GALLERIES": "[]", "LOCALAI_P2P": "true", "P2P": "true", "LOCALAI_PARALLEL_REQUESTS": "1", "LOCALAI_X": ""}

    found = from_variables(given)

    assert found.without_meaning == ("LOCALAI_GALLERIES", "LOCALAI_P2P")
    assert found.values == {}


def test_every_option_is_a_setting() -> None:
    assert {option.setting for option in OPTIONS} <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15m", "900"), ("1h30m", "5400"), ("500ms", "0.5"), (".5s", "0.5"), ("90", "90"), ("1d", "1d"), ("", "")],
)
def test_durations_are_gos(text: str, seconds: str) -> None:
    assert duration_s(text) == seconds


def test_what_cannot_be_converted_stays_for_the_setting_to_refuse() -> None:
    assert [megabytes(text) for text in ("15", "1.5", "-1", "x")] == [str(15 * 2**20), "1.5", "-1", "x"]
    assert names('[{"name": "a", "url": "u"}, {"id": "b"}, "c", {"url": "u"}]') == "a,b,c"
    assert names("[a, b") == "[a, b"
