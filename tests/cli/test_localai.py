"""LocalAI's flags on our command line."""

from __future__ import annotations

from typing import Any

import click
import pytest

from cli.localai import ALWAYS_SO, SWITCHES_WITHOUT_MEANING, VALUES_WITHOUT_MEANING, LocalAICommand, translate
from cli.options import read_settings, settings_flags
from cli.serve import serve
from shared.localai import OPTIONS
from shared.settings import Settings
from tests.support.commands import Run

# LocalAI's flags -> (our setting, what it becomes): the rows of docs/from-localai.md
FLAGS: dict[str, tuple[str, Any]] = {
    "--address :40080": ("address", "0.0.0.0:40080"),
    "--address=:40080": ("address", "0.0.0.0:40080"),
    "--models-path /models": ("models_path", "/models"),
    "--config-file /c.yaml": ("config_file", "/c.yaml"),
    "--models-config-file /c.yaml": ("config_file", "/c.yaml"),
    "--localai-config-dir /etc/localai": ("localai_config_dir", "/etc/localai"),
    "--data-path /data": ("data_dir", "/data"),
    "--cors": ("cors", True),
    "--cors=false": ("cors", False),
    "--cors-allow-origins https://a.example": ("cors_allow_origins", ("https://a.example",)),
    "--upload-limit 20": ("max_request_bytes", 20 * 2**20),
    "--preload-models a,b": ("preload_models", ("a", "b")),
    "--load-to-memory a --load-to-memory b": ("preload_models", ("a", "b")),
    "--single-active-backend": ("single_active_backend", True),
    "--max-active-backends 2": ("max_active_backends", 2),
    "--enable-watchdog-idle": ("watchdog_idle", True),
    "--watchdog-idle-timeout 15m": ("watchdog_idle_timeout_s", 900.0),
    "--enable-watchdog-busy=false": ("watchdog_busy", False),
    "--watchdog-busy-timeout=5m": ("watchdog_busy_timeout_s", 300.0),
    "--preload-backend-only": ("preload_backend_only", True),
    "--threads 4": ("threads", 4),
    "-t 4": ("threads", 4),
    "-t4": ("threads", 4),
    "--context-size 512": ("context_size", 512),
    "--f16": ("f16", True),
    "--f16=true": ("f16", True),
    "--no-f16": ("f16", False),
    "--log-level warn": ("log_level", "warning"),
    "--log-level=trace": ("log_level", "debug"),
    "--debug": ("log_level", "debug"),
    "--disable-webui": ("disable_webui", True),
    "--disable-web-ui": ("disable_webui", True),
    "--disable-metrics-endpoint": ("disable_metrics_endpoint", True),
    "--machine-tag box-7": ("machine_tag", "box-7"),
}


@click.command(cls=LocalAICommand)
@settings_flags
@click.pass_context
def command(context: click.Context, **flags: Any) -> None:
    """Reads the settings, as serve does."""
    context.obj.append(read_settings(flags))


def settings_of(*arguments: str) -> Settings:
    found: list[Settings] = []
    command.main(list(arguments), obj=found, standalone_mode=False)
    return found[0]


@pytest.mark.parametrize("line", FLAGS)
def test_a_flag_of_localai_is_a_setting(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    setting, becomes = FLAGS[line]

    found = getattr(settings_of(*line.split()), setting)

    assert (str(found) if hasattr(found, "parts") else found) == becomes
    assert capsys.readouterr().err == ""


def test_api_keys_add_up() -> None:
    settings = settings_of("--api-keys", "one,two", "--api-keys=three")

    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two", "three"]


def test_ours_wins_over_theirs_wherever_it_stands() -> None:
    for line in ("--max-request-bytes 2048 --upload-limit 20", "--upload-limit 20 --max-request-bytes 2048"):
        assert settings_of(*line.split()).max_request_bytes == 2048
    assert str(settings_of("--config-file", "/ours.yaml", "--models-config-file", "/theirs.yaml").config_file) == "/ours.yaml"


def test_what_means_nothing_here_is_passed_over_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALAI_TRACING_MAX_ITEMS", "7")
    line = (
        "--galleries [] --autoload-galleries --no-autoload-galleries --p2ptoken=secret --opaque-errors=false --parallel-requests"
    )

    settings = settings_of(*line.split(), "--threads", "3")

    assert settings.threads == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said == (
        "Warning: LocalAI's --galleries, --autoload-galleries, --no-autoload-galleries, --p2ptoken, --opaque-errors, "
        "LOCALAI_TRACING_MAX_ITEMS mean nothing to umekomi and are passed over\n"
    )


def test_what_is_neither_ours_nor_localais_is_refused() -> None:
    with pytest.raises(click.NoSuchOption):
        settings_of("--no-such-flag")
    with pytest.raises(click.BadOptionUsage):
        settings_of("--upload-limit")
    with pytest.raises(click.UsageError, match="unexpected extra argument"):
        settings_of("--", "--galleries")


def test_no_flag_is_both_ours_and_passed_over() -> None:
    passed_over = SWITCHES_WITHOUT_MEANING | VALUES_WITHOUT_MEANING | ALWAYS_SO.keys()
    ours = {option.removeprefix("--") for parameter in serve.params for option in (*parameter.opts, *parameter.secondary_opts)}

    assert not passed_over & (ours | {flag for option in OPTIONS for flag in option.flags})


def test_a_value_that_looks_like_a_flag_stays_a_value() -> None:
    assert translate(["--machine-tag", "--f16"]).arguments == ["--machine-tag", "--f16"]


def test_run_is_serve(run: Run) -> None:
    assert run("run", "--threads", "none").stderr.startswith("Error: --threads: ")
    assert "--threads" in run("run", "--help").stdout
