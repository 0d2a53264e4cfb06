"""The commands that look after a server, against the real one."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tests.support.service import Service


def umekomi(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = service.environment | {"UMEKOMI_URL": service.url}
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


def test_a_bench_measures_alone_and_beside_a_job(service: Service) -> None:
    said = umekomi(service, *"bench --clients 2 --seconds 0.5 --warm-up 0.1 --jobs 50 --json -".split())
    assert said.returncode == 0, said.stderr
    result = json.loads(said.stdout)
    assert (result["model"], result["dimensions"]) == ("all-MiniLM-L6-v2", 384)
    assert [(run["beside_job"], run["errors"]) for run in result["runs"]] == [(False, {}), (True, {})]
    assert all(run["tokens"] > run["texts"] >= run["requests"] > 0 for run in result["runs"])
    assert result["job"]["completed"] == 50
    assert "umekomi bench" not in umekomi(service, "jobs", "list", "--json").stdout


def test_the_doctor_and_top_see_the_worker(service: Service) -> None:
    said = umekomi(service, "doctor", "--json")
    found = json.loads(said.stdout)["findings"]
    assert [each for each in found if each["level"] == "fail"] == [], said.stderr
    messages = {each["about"]: each["message"] for each in found}
    assert re.search(r": all-MiniLM-L6-v2.* loaded", messages["workers"])
    assert "an umekomi listens" in next(each["message"] for each in found if each["about"] == "address")
    seen = json.loads(umekomi(service, "top", "--once", "--json").stdout)
    assert [model["state"] for model in seen["models"] if model["name"] == "all-MiniLM-L6-v2"] == ["ready"]
    assert len(seen["workers"]) == 1
