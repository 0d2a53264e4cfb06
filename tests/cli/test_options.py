from __future__ import annotations

from pathlib import Path

import click
import pytest

from cli.options import default_text, flag, read_settings
from cli.processes import environment
from cli.serve import serve
from cli.web import web
from cli.worker import worker
from shared.settings import ENV_PREFIX, Settings
from tests.support.commands import Run


@pytest.mark.parametrize("command", [serve, web, worker], ids=lambda command: command.name)
def test_every_setting_is_a_flag_that_names_its_variable_and_default(command: click.Command) -> None:
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}

    for name, field in Settings.model_fields.items():
        option = options[name]
        assert flag(name) in option.opts
        assert field.description in option.help
        assert f"[{ENV_PREFIX}{name.upper()}; default: {default_text(name, field)}]" in option.help


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEKOMI_MAX_INPUTS", "7")
    monkeypatch.setenv("UMEKOMI_WINDOW", "3")

    settings = read_settings({"max_inputs": "9", "window": None})

    assert (settings.max_inputs, settings.window) == (9, 3)


@pytest.mark.parametrize("command", ["serve", "web", "worker"])
def test_a_wrong_flag_ends_with_one_line_that_names_it(run: Run, command: str) -> None:
    result = run(command, "--max-inputs", "many")

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: --max-inputs: ")
    assert "'many'" in result.stderr


def test_a_wrong_variable_is_named_as_a_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEKOMI_WINDOW", "0")

    result = run("web", "--max-inputs", "5")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: UMEKOMI_WINDOW: ")


def test_processes_get_the_settings_as_variables_and_nothing_else_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UMEKOMI_API_KEYS", "one, two")
    monkeypatch.setenv("UMEKOMI_URL", "http://elsewhere")
    monkeypatch.setenv("OTHER", "kept")
    settings = read_settings({"config_file": "models.yaml", "storage_url": "store", "streams": "4"})

    given = environment(settings, redis_url="unix:///x?db=0")

    ours = {name: value for name, value in given.items() if name.startswith(ENV_PREFIX)}
    assert given["OTHER"] == "kept"
    assert ours == {
        "UMEKOMI_API_KEYS": "one,two",
        "UMEKOMI_CONFIG_FILE": str(tmp_path / "models.yaml"),
        "UMEKOMI_STORAGE_URL": str(tmp_path / "store"),
        "UMEKOMI_STREAMS": "4",
        "UMEKOMI_REDIS_URL": "unix:///x?db=0",
    }


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings({"address": ":9000", "batch_target_ms": "2.5", "api_keys": "a,b", "log_format": "json"})
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)

    assert read_settings({}) == settings
