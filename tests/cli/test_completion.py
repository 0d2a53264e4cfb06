"""What a shell is told to complete."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from cli.main import COMMANDS, main
from tests.cli.test_jobs import JOBS, job
from tests.support.api import FakeApi, Reply
from tests.support.commands import Run
from tests.support.valkey import free_port


def completed(*words: str) -> list[str]:
    *before, incomplete = words
    found = ShellComplete(main, {}, "umekomi", "_UMEKOMI_COMPLETE").get_completions(before, incomplete)
    return [item.value for item in found]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_of_its_own(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_UMEKOMI_COMPLETE={shell}_complete" in result.stdout


def test_commands_flags_and_formats_are_completed() -> None:
    assert set(completed("")) >= set(COMMANDS)
    assert completed("do") == ["doctor"]
    assert "--clients" in completed("bench", "--cl")
    assert completed("jobs", "results", "job_1", "--format", "n") == ["npy", "npz"]


def test_models_and_jobs_are_those_of_the_server(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.on("GET", "/v1/models", Reply({"data": [{"id": "e5", "state": "ready"}, {"id": "bge", "state": "ready"}]}))
    api.on("GET", JOBS, Reply({"data": [job(), job() | {"id": "job_2"}], "has_more": False}))
    monkeypatch.setenv("UMEKOMI_URL", api.url)
    monkeypatch.setenv("UMEKOMI_API_KEY", "sk-1")
    assert completed("embed", "--model", "e") == ["e5"]
    assert completed("jobs", "watch", "job_") == ["job_1", "job_2"]
    assert api.asked[0].headers["authorization"] == "Bearer sk-1"


def test_a_server_that_is_away_completes_nothing_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UMEKOMI_URL", f"http://127.0.0.1:{free_port()}")
    assert completed("embed", "--model", "") == []
    assert capfd.readouterr() == ("", "")
