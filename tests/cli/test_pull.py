from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.pull import read_id
from shared.hub import Hub
from tests.support.commands import Run
from tests.support.hub import FakeHub, model_files, running_hub
from tests.support.valkey import free_port
from tests.support.waiting import wait_until

WEIGHTS = b"w" * 2_000_000


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with running_hub() as running:
        yield running


@pytest.fixture
def cache(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub at the server."""
    found = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(found))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return found


@pytest.mark.parametrize("spelling", ["org/m", "hf://org/m", "huggingface://org/m", "https://huggingface.co/org/m"])
def test_a_model_is_fetched_by_any_spelling_of_its_id(server: FakeHub, cache: Path, run: Run, spelling: str) -> None:
    server.add("org/m", model_files())

    pulled = run("models", "pull", spelling)

    assert pulled.exit_code == 0, pulled.stderr
    folder = Path(pulled.stdout.strip())
    assert folder.is_relative_to(cache)
    assert (folder / "model.safetensors").is_file()
    lines = pulled.stderr.splitlines()
    assert lines[0] == "4 of 5 files to fetch, 0.3 MB"
    assert "4 of 5: model.safetensors, 0.3 MB" in lines


def test_a_directory_of_ones_own(server: FakeHub, cache: Path, run: Run, tmp_path: Path) -> None:
    server.add("org/m", model_files())

    pulled = run("models", "pull", "org/m", "--to", tmp_path / "mine")

    assert pulled.stdout.strip() == str(tmp_path / "mine")
    assert (tmp_path / "mine" / "1_Pooling" / "config.json").is_file()
    assert not cache.exists()


def test_what_is_refused_and_what_may_be_tried_again_have_codes_of_their_own(
    server: FakeHub, cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("org/gated", model_files(), token="secret")

    refused, unknown, wrong = run("models", "pull", "org/gated"), run("models", "pull", "org/none"), run("models", "pull", "none")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    away = run("models", "pull", "org/gated")

    assert [each.exit_code for each in (refused, unknown, wrong, away)] == [1, 1, 2, 3]
    assert "HF_TOKEN" in refused.stderr
    assert "there is no repository org/none" in unknown.stderr
    assert "could not be fetched" in away.stderr


def test_offline_mode_is_refused(server: FakeHub, cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEKOMI_OFFLINE", "true")

    refused = run("models", "pull", "org/m")

    assert refused.exit_code == 1
    assert "offline mode" in refused.stderr
    assert server.asked == []


def test_the_revision_stands_in_the_id_or_beside_it() -> None:
    assert read_id("org/m@v1", None) == ("org/m", "v1")
    assert read_id("org/m", "v1") == ("org/m", "v1")
    with pytest.raises(Exception, match="the id says v1"):
        read_id("org/m@v1", "v2")


@pytest.fixture
def process(server: FakeHub, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(*arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": ""}
        del environment["HF_HUB_CACHE"]
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_ctrl_c_leaves_what_the_same_command_goes_on_from(
    server: FakeHub, process: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    repository = server.add("org/m", model_files(WEIGHTS), gate=threading.Event())
    pulling = process("models", "pull", "org/m")
    blobs = tmp_path / "home" / "hub" / "models--org--m" / "blobs"
    wait_until(lambda: server.downloads("model.safetensors") and any(p.stat().st_size for p in blobs.glob("*.incomplete")), 60)
    pulling.send_signal(signal.SIGINT)
    _, said = pulling.communicate(timeout=20)
    assert (pulling.returncode, said.splitlines()[-1]) == (130, "stopped; the same command goes on from here")
    assert repository.gate is not None
    repository.gate.set()
    server.asked.clear()

    again = process("models", "pull", "org/m")
    out, said = again.communicate(timeout=60)

    assert again.returncode == 0, said
    assert [request.range for request in server.downloads("model.safetensors")] == ["bytes=1000-"]
    assert (Path(out.strip()) / "model.safetensors").read_bytes() == WEIGHTS


def test_pulling_imports_no_model_library(tmp_path: Path) -> None:
    script = "import sys, cli.models, shared.hub; print('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_hub_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    hub = Hub.of_environment(offline=True)

    assert (hub.endpoint, hub.token, hub.is_offline) == ("https://mirror.example", "hf_secret", True)
