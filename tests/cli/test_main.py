from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest

from cli.main import COMMANDS, SECTIONS, main
from tests.support.commands import Run


def test_help_imports_none_of_the_heavy_modules() -> None:
    script = (
        "import sys\nfrom cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = ('pydantic', 'httpx', 'rich', 'redis', 'celery', 'numpy', 'flask', 'torch')\n"
        "print([name for name in heavy if name in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert said.splitlines()[-1] == "[]"
    assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_of_a_command_what_it_says_of_itself(name: str) -> None:
    where, line = COMMANDS[name]
    module, _, attribute = where.partition(":")
    command = getattr(import_module(module), attribute)

    assert (command.help or "").startswith(line.rstrip("."))


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += every_command(command, (*path, name))
    return found


@pytest.mark.parametrize(
    ("path", "command"), every_command(main), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_and_every_flag_explains_itself(path: tuple[str, ...], command: click.Command, run: Run) -> None:
    result = run(*path, "--help")

    assert result.exit_code == 0
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    result = run("sevre")

    assert result.exit_code == 2
    assert "sevre" in result.stderr


def test_every_command_stands_in_one_section() -> None:
    assert sorted(COMMANDS) == sorted(name for section in SECTIONS.values() for name in section)


def test_a_mistake_of_ours_is_a_sentence_and_not_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("cli.models.ApiClient.models", broken)
    result = run("models", "list")
    assert result.exit_code == 1
    assert "RuntimeError: boom" in result.stderr
    assert "Traceback" not in result.output


def test_ctrl_c_ends_any_command_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.models.ApiClient.models", interrupted)
    assert run("models", "list").exit_code == 130
