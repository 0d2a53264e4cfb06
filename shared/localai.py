"""LocalAI's options: which setting each becomes, and how its value is said there; and what its variables say.

Ours win where both are set: a UMEKOMI_ variable over one of LocalAI's, LOCALAI_X over X.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

PREFIX = "LOCALAI_"

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)", re.ASCII)


def _same(text: str) -> str:
    return text


def duration_s(text: str) -> str:
    """Go's durations in seconds: 15m -> 900, 1h30m -> 5400. What is none stays, for the setting to refuse."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return text
    return f"{sum(float(number) * _UNITS_S[unit] for number, unit in parts):g}"


def megabytes(text: str) -> str:
    """MB in bytes. What is no number stays."""
    return str(int(text) * 2**20) if text.isascii() and text.isdecimal() else text


def names(text: str) -> str:
    """Names with commas between; LocalAI's JSON list of galleries' models is read for its names."""
    if not text.lstrip().startswith("["):
        return text
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    found = [each.get("name") or each.get("id") if isinstance(each, dict) else each for each in listed]
    return ",".join(str(name) for name in found if name)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of LocalAI's: its spellings, the field of Settings that it becomes, and how its value is said there."""

    setting: str
    flags: tuple[str, ...]
    variables: tuple[str, ...]  # the first that is set counts
    convert: Callable[[str], str] = _same
    is_switch: bool = False
    is_list: bool = False  # given more than once, the values add up


def _option(
    setting: str,
    flags: str,
    variables: str | None = None,
    convert: Callable[[str], str] = _same,
    *,
    is_switch: bool = False,
    is_list: bool = False,
) -> Option:
    """`variables` without their prefix; the flags' names by default."""
    bare = (variables or flags.upper().replace("-", "_")).split()
    spelled = (*(PREFIX + name for name in bare), *bare)
    return Option(setting, tuple(flags.split()), spelled, convert, is_switch, is_list)


OPTIONS: tuple[Option, ...] = (
    _option("address", "address"),
    _option("models_path", "models-path"),
    _option("config_file", "models-config-file config-file", "MODELS_CONFIG_FILE CONFIG_FILE"),
    Option("localai_config_dir", ("localai-config-dir",), ("LOCALAI_CONFIG_DIR", "LOCALAI_LOCALAI_CONFIG_DIR")),
    _option("data_dir", "data-path", "DATA_PATH"),
    _option("api_keys", "api-keys", "API_KEY API_KEYS", is_list=True),
    _option("cors", "cors", is_switch=True),
    _option("cors_allow_origins", "cors-allow-origins"),
    _option("max_request_bytes", "upload-limit", convert=megabytes),
    _option("preload_models", "preload-models load-to-memory", "PRELOAD_MODELS LOAD_TO_MEMORY", names, is_list=True),
    _option("single_active_backend", "single-active-backend", is_switch=True),
    _option("max_active_backends", "max-active-backends"),
    _option("watchdog_idle", "enable-watchdog-idle", "WATCHDOG_IDLE ENABLE_WATCHDOG_IDLE", is_switch=True),
    _option("watchdog_idle_timeout_s", "watchdog-idle-timeout", convert=duration_s),
    _option("watchdog_busy", "enable-watchdog-busy", "WATCHDOG_BUSY ENABLE_WATCHDOG_BUSY", is_switch=True),
    _option("watchdog_busy_timeout_s", "watchdog-busy-timeout", convert=duration_s),
    _option("preload_backend_only", "preload-backend-only", is_switch=True),
    _option("threads", "threads"),
    _option("context_size", "context-size"),
    _option("f16", "f16", is_switch=True),
    Option("log_level", ("log-level",), ("LOCALAI_LOG_LEVEL",)),
    Option("log_format", ("log-format",), ("LOCALAI_LOG_FORMAT",)),
    _option("disable_webui", "disable-webui disable-web-ui", "DISABLE_WEBUI DISABLE_WEB_UI", is_switch=True),
    _option("disable_metrics_endpoint", "disable-metrics-endpoint", is_switch=True),
    _option("machine_tag", "machine-tag"),
)

# Honoured without a setting: umekomi never does otherwise.
ALWAYS_SO = (
    "PARALLEL_REQUESTS",
    "LOCALAI_PARALLEL_REQUESTS",
    "LOCALAI_SUBTLE_KEY_COMPARISON",
    "LOCALAI_CONFIG_DIR_POLL_INTERVAL",
)
DEBUG = "LOCALAI_DEBUG"


@dataclass(frozen=True, slots=True)
class FromVariables:
    """What LocalAI's variables say."""

    values: Mapping[str, str]  # by field of Settings
    sources: Mapping[str, str]  # by field: the variable
    without_meaning: tuple[str, ...]  # variables


def from_variables(environment: Mapping[str, str]) -> FromVariables:
    """The settings in LocalAI's variables; an empty one is not set."""
    given = {name: value for name, value in environment.items() if value.strip()}
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        name = next((name for name in option.variables if name in given), None)
        if name is not None:
            values[option.setting], sources[option.setting] = option.convert(given[name].strip()), name
    if is_true(given.get(DEBUG, "false")) and "log_level" not in values:
        values["log_level"], sources["log_level"] = "debug", DEBUG
    known = known_variables()
    return FromVariables(values, sources, tuple(sorted(name for name in given if name.startswith(PREFIX) and name not in known)))


def known_variables() -> frozenset[str]:
    """Every variable of LocalAI's that means something here."""
    return frozenset({DEBUG, *ALWAYS_SO}).union(*(option.variables for option in OPTIONS))


def is_true(text: str) -> bool:
    """A switch's value, as LocalAI reads it."""
    return text.strip().lower() in ("1", "true", "yes", "on")
