"""Ctrl-C in a bench shows what was measured, also while the server keeps everybody waiting."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from tests.cli.bench.test_bench import answer
from tests.support.api import Asked, FakeApi, Reply


def test_ctrl_c_prints_what_was_measured_so_far(api: FakeApi) -> None:
    hangs, release = threading.Event(), threading.Event()
    ok, asked_for = answer(), [0]

    def embed(asked: Asked) -> Reply:
        asked_for[0] += 1
        if asked_for[0] > 5:
            hangs.set()
            release.wait(30)
        return ok(asked)

    api.on("POST", "/v1/embeddings", embed)
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "bench",
        "--url",
        api.url,
        "--clients",
        "1,2",
        "--warm-up",
        "0",
        "--seconds",
        "60",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert hangs.wait(30)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    finally:
        release.set()
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "stopped by Ctrl-C" in said
    assert "Traceback" not in said
    assert any(line.split()[:1] == ["1"] for line in said.splitlines())
