"""The configuration and the curl of a LocalAI user, as they are, against the real processes.

The model lies at its absolute path below a temporary root: only that root is put before the path in the file. Beside it, in the
models directory, lies a model with code of its own, once for an entry that trusts it and once for one that does not.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.models import build_bert, build_luke, copy_of, luke_vectors
from tests.support.service import Service
from tests.support.valkey import free_port

CONFIG = """\
- name: sentence-luke
  backend: sentencetransformers
  embeddings: true
  parameters:
    model: /localai/model/sentence-luke
"""
CURL = """\
curl http://localhost:40080/v1/embeddings -H "Content-Type: application/json" -H "Authorization: Bearer None" \\
  -d '{"model": "sentence-luke", "input": "query: 夕飯はお肉です。"}'
"""
# A module in the model's own repository: the vector the other way round.
OWN_CODE = """\
from sentence_transformers.sentence_transformer.modules import Normalize


class Turned(Normalize):
    def forward(self, features):
        features = super().forward(features)
        return features | {"sentence_embedding": -features["sentence_embedding"]}
"""
ENTRIES = """\
- name: trusted
  trust_remote_code: true
  preload: false
  engine: torch
  parameters: {model: own-code}
- name: not-trusted
  preload: false
  engine: torch
  parameters: {model: own-code}
- name: plain
  preload: false
  engine: torch
  parameters: {model: plain}
"""
PORT = 40080
TEXT = "query: 夕飯はお肉です。"


def port() -> int:
    """The user's own, if nobody has it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            return free_port()
    return PORT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_luke(tmp_path_factory.mktemp("root") / "localai" / "model" / "sentence-luke")


@pytest.fixture(scope="module")
def models_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same small BERT, as it is and with a module of its own."""
    directory = tmp_path_factory.mktemp("models")
    build_bert(directory / "plain")
    own_code = copy_of(directory / "plain", directory / "own-code")
    (own_code / "own.py").write_text(OWN_CODE)
    modules = json.loads((own_code / "modules.json").read_text())
    modules[-1]["type"] = "own.Turned"
    (own_code / "modules.json").write_text(json.dumps(modules))
    (directory / "entries.yaml").write_text(ENTRIES)
    return directory


@pytest.fixture(scope="module")
def service(folder: Path, models_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Told where to listen and what to serve by LocalAI's variables alone."""
    root = folder.parents[2]
    config = CONFIG.replace("/localai/", f"{root}/localai/")
    service = Service(tmp_path_factory.mktemp("localai-user"), models=config, interactive_timeout_s=55)
    service.port = port()
    service.url = f"http://127.0.0.1:{service.port}"
    del service.environment["UMEKOMI_ADDRESS"]
    config_file = service.environment.pop("UMEKOMI_CONFIG_FILE")
    service.environment |= {
        "ADDRESS": f"127.0.0.1:{service.port}",
        "LOCALAI_MODELS_CONFIG_FILE": config_file,
        "MODELS_PATH": str(models_path),
        "LOCALAI_MACHINE_TAG": "box-7",
        "LOCALAI_GALLERIES": "[]",
        "LOCALAI_F16": "true",
        "THREADS": "1",
    }
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_users_curl_gets_the_models_own_vector(service: Service, folder: Path) -> None:
    ran = subprocess.run(
        ["sh", "-c", CURL.replace(f"localhost:{PORT}", f"localhost:{service.port}")], capture_output=True, check=True
    )

    answer = json.loads(ran.stdout)
    assert answer["model"] == "sentence-luke"
    np.testing.assert_allclose(answer["data"][0]["embedding"], luke_vectors(folder, (TEXT,))[0], atol=1e-5)


def test_what_localais_variables_say_holds(service: Service) -> None:
    answer = httpx.get(f"{service.url}/readyz", timeout=10)

    assert answer.json()["problems"] == []
    assert answer.headers["Machine-Tag"] == "box-7"
    assert httpx.get(f"{service.url}/v1/models", timeout=10).json()["data"][0]["id"] == "sentence-luke"
    for log in service.directory.glob("logs/*.log"):
        assert log.read_text().count("LOCALAI_GALLERIES mean nothing to umekomi and are passed over") == 1


def test_a_models_own_code_runs_where_its_entry_trusts_it_and_nowhere_else(service: Service) -> None:
    with service.client() as client:
        answers = {name: client.post("/v1/embeddings", json={"model": name, "input": TEXT}) for name in ("plain", "trusted")}
        refused = client.post("/v1/embeddings", json={"model": "not-trusted", "input": TEXT})

    vectors = {name: np.array(answer.json()["data"][0]["embedding"]) for name, answer in answers.items()}
    np.testing.assert_allclose(vectors["trusted"], -vectors["plain"], atol=1e-5)
    assert refused.status_code >= 400
    assert "trust_remote_code" in refused.json()["error"]["message"]
