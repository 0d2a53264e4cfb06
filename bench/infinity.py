"""infinity-emb, the Python peer, as a server that a bench starts; it lives in a virtual environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.support.valkey import free_port

# Its names for them: optimum is ONNX Runtime.
ENGINES = {"torch": "torch", "onnx": "optimum"}
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "PYTHONWARNINGS": "ignore"}
START_S = 300  # torch read from a cold disk takes its time


def onnx_folder(venv: Path, model: Path) -> Path:
    """The model as its ONNX engine wants it; made once, in the virtual environment."""
    folder = venv / f"{model.parent.name}-onnx"
    if not (folder / "model.onnx").exists():
        exporter = Path(__file__).with_name("infinity_onnx.py")
        subprocess.run([venv / "bin" / "python", exporter, model, folder], env=os.environ | QUIET, check=True)
    return folder


@contextmanager
def infinity(venv: Path, engine: str, model: Path, name: str) -> Iterator[str]:
    """Its server with one of `ENGINES` on the model of a folder; the URL before /v1. Or SystemExit with its last words."""
    port = free_port()
    folder = onnx_folder(venv, model) if engine == "onnx" else model
    command = [str(venv / "bin" / "infinity_emb"), "v2", "--model-id", str(folder), "--served-model-name", name]
    command += ["--engine", ENGINES[engine], "--batch-size", "32", "--url-prefix", "/v1", "--device", "cpu"]
    # Left to itself its ONNX engine pools by the first token, whatever the model says.
    command += ["--pooling-method", "mean"] if engine == "onnx" else []
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, env=os.environ | QUIET, stdout=log, stderr=log, start_new_session=True)
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
            while not _answers(url, name):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"infinity with {engine} does not serve:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.5)
            yield url
        finally:
            _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """With its children."""
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str, model: str) -> bool:
    try:
        body = {"model": model, "input": "warm"}
        return httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).status_code == 200
    except httpx.TransportError:
        return False
