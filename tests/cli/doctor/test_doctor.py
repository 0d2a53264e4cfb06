"""`umekomi doctor`: what it looks at, what it says to change, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from cli.doctor import command, gpus
from cli.doctor.broker import judge as judge_redis
from cli.doctor.broker import judge_latency, judge_skew
from cli.doctor.disks import try_out
from cli.doctor.finding import Finding, ok, run_check
from cli.doctor.gpus import Gpu, Torch, judge, read_driver, unsupported
from cli.doctor.machine import Cores, judge_cores, judge_instructions
from shared.presence import ModelPresence, PresenceBoard, WorkerPresence
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.api import FakeApi, Reply
from tests.support.commands import Run
from tests.support.valkey import free_port

GIB = 2**30
VALKEY: dict[str, Any] = {
    "valkey_version": "9.1.2",
    "redis_version": "7.2.4",
    "server_mode": "standalone",
    "role": "master",
    "maxmemory": 0,
    "used_memory": 2**20,
    "maxmemory_policy": "noeviction",
    "total_system_memory": 8 * GIB,
    "aof_enabled": 1,
    "connected_clients": 3,
    "maxclients": 10_000,
}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "ask_driver", list)


def levels(found: list[Finding], about: str) -> list[str]:
    return [each.level for each in found if each.about == about]


def findings(run: Run, *arguments: object, data: Path) -> tuple[int, list[Finding]]:
    said = run("doctor", "--json", "--data-dir", data, "--address", f"127.0.0.1:{free_port()}", *arguments)
    assert said.stdout, said.output
    return said.exit_code, [Finding(**each) for each in json.loads(said.stdout)["findings"]]


def test_a_machine_that_has_everything_is_well(run: Run, redis_url: str, tmp_path: Path, no_gpu: None) -> None:
    (tmp_path / "storage").mkdir()
    code, found = findings(run, "--redis-url", redis_url, data=tmp_path)
    assert code == 0
    assert {each.about for each in found} >= {"redis", "clock", "storage", "data", "models", "cpu", "memory", "files", "keys"}
    assert all(each.advice for each in found if each.level != "ok")
    assert list((tmp_path / "storage").glob("doctor*")) == []


def test_nothing_is_made_where_nothing_is(run: Run, tmp_path: Path, no_gpu: None) -> None:
    code, found = findings(run, data=tmp_path / "not" / "there")
    assert (code, levels(found, "storage")[0]) == (0, "ok")
    assert not (tmp_path / "not").exists()


def test_a_redis_that_is_away_fails_without_telling_its_password(run: Run, tmp_path: Path, no_gpu: None) -> None:
    said = run("doctor", "--data-dir", tmp_path, "--redis-url", f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    assert said.exit_code == 1
    assert "cannot be reached" in said.stdout
    assert "--redis-url" in said.stdout
    assert "hunter2" not in said.output


def test_what_is_wrong_is_all_that_quiet_shows(run: Run, tmp_path: Path, no_gpu: None) -> None:
    (tmp_path / "models.yaml").write_text("- name: gone\n  backend: sentencetransformers\n  parameters: {model: /gone}\n")
    said = run("doctor", "-q", "--data-dir", tmp_path, "--config-file", tmp_path / "models.yaml")
    assert said.exit_code == 1
    lines = said.stdout.splitlines()
    assert any(line.startswith("fail") and "/gone" in line for line in lines)
    assert not any(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"valkey_version": "6.2.1"}, "fail", "BLMPOP"),
        ({"server_mode": "cluster"}, "fail", "Sentinel for failover"),
        ({"server_mode": "sentinel"}, "fail", "master"),
        ({"role": "slave"}, "fail", "master"),
        ({"maxmemory": GIB, "maxmemory_policy": "allkeys-lru"}, "fail", "CONFIG SET maxmemory-policy noeviction"),
        ({"maxmemory_policy": "volatile-lru"}, "warn", "CONFIG SET maxmemory-policy noeviction"),
        ({"maxmemory": GIB, "used_memory": 0.9 * GIB}, "warn", "raise maxmemory"),
        ({"aof_enabled": 0}, "warn", "CONFIG SET appendonly yes"),
        ({"aof_last_write_status": "err"}, "fail", "disk"),
        ({"rdb_last_bgsave_status": "err"}, "fail", "disk"),
        ({"connected_clients": 9_500}, "warn", "maxclients"),
    ],
)
def test_what_redis_tells_of_itself_is_judged(change: dict[str, Any], level: str, words: str) -> None:
    assert all(each.level == "ok" for each in judge_redis(VALKEY))
    wrong = [each for each in judge_redis(VALKEY | change) if each.level != "ok"]
    assert [each.level for each in wrong] == [level]
    assert words in wrong[0].advice


def test_a_far_away_redis_and_another_clock_are_told() -> None:
    assert [judge_latency([ms]).level for ms in (0.3, 5.0, 80.0)] == ["ok", "warn", "fail"]
    assert [judge_skew(s).level for s in (0.01, -1.0, 60.0)] == ["ok", "warn", "fail"]


def test_workers_of_another_version_and_models_that_failed_are_told(
    run: Run, redis: Redis, redis_url: str, tmp_path: Path, no_gpu: None
) -> None:
    worker = WorkerPresence(
        id="w", host="box", pid=7, device="cpu", started_at=0.0, shards_at_once=1, version="0.0.1",
        models={"e5": ModelPresence(state="failed", reason="out of memory")},
    )  # fmt: skip
    PresenceBoard(redis).announce(worker)
    code, found = findings(run, "--redis-url", redis_url, data=tmp_path)
    told = {each.level: each.message for each in found if each.about == "workers" and each.level != "ok"}
    assert code == 1
    assert "0.0.1" in told["warn"]
    assert "out of memory" in told["fail"]


class Forgetful(DirectoryStorage):
    """Creates a name as often as one likes, as an S3 without conditional puts does."""

    def create(self, name: str, content: bytes) -> bool:
        self.write(name, content)
        return True


def test_storage_that_creates_a_name_twice_is_told(tmp_path: Path) -> None:
    assert [each.level for each in try_out(DirectoryStorage(tmp_path))] == ["ok"]
    assert [each.level for each in try_out(Forgetful(tmp_path))] == ["fail"]
    assert list(tmp_path.glob("doctor*")) == []


def test_storage_that_is_a_file_is_told(run: Run, tmp_path: Path, no_gpu: None) -> None:
    (tmp_path / "file").write_text("")
    code, found = findings(run, "--storage-url", tmp_path / "file", data=tmp_path)
    assert (code, levels(found, "storage")[0]) == (1, "fail")


def test_a_container_s_share_of_the_cores_is_told_where_workers_do_not_see_it(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    old = Cores.of_system(tmp_path)
    assert (old.quota, old.is_old_cgroup) == (2.0, True)
    eight = Cores(installed=8, usable=8, quota=2.0, is_old_cgroup=True)
    assert judge_cores(eight, Settings()).advice == "set --streams 2 --threads 2"
    assert judge_cores(eight, Settings(streams=2, threads=2)).level == "ok"
    assert judge_cores(Cores(installed=8, usable=8, quota=2.0), Settings()).level == "ok"
    assert judge_cores(Cores(installed=8, usable=8, quota=2.0), Settings(streams=8)).level == "warn"
    assert judge_cores(Cores(installed=8, usable=8, quota=0.5), Settings()).level == "warn"


def test_a_cpu_without_vector_instructions_is_told() -> None:
    assert [judge_instructions(flags).level for flags in ({"avx512f"}, {"avx2"}, {"sse4_2"})] == ["ok", "ok", "warn"]


H100 = Gpu(number="0", name="NVIDIA H100", driver="550.54", total_bytes=80 * GIB, used_bytes=GIB)


@pytest.mark.parametrize(
    ("gpus_seen", "torch", "device", "level", "words"),
    [
        ([H100], Torch(version="2.8", built_for="12.6", sees=1), "auto", "ok", ""),
        ([H100], Torch(version="2.8+cpu", built_for=None, sees=0), "auto", "fail", "download.pytorch.org"),
        ([H100], Torch(version="2.8", built_for="13.0", sees=0), "auto", "fail", "driver for CUDA 13.0"),
        ([H100], Torch(version="2.8", built_for="12.6", sees=1, unsupported=("sm_120",)), "auto", "fail", "newer torch"),
        ([H100], None, "auto", "fail", "import torch"),
        ([], Torch(version="2.8", built_for="12.6", sees=0), "cuda", "fail", "driver"),
        ([Gpu(number="0", name="T4", driver="1", total_bytes=GIB, used_bytes=0)], None, "cpu", "warn", "nvidia-smi"),
    ],
)
def test_the_driver_s_story_is_held_against_torch_s(
    gpus_seen: list[Gpu], torch: Torch | None, device: str, level: str, words: str
) -> None:
    found = list(judge(gpus_seen, torch, Settings(device=device)))
    assert command.worst(found) == level
    assert any(words in each.advice for each in found)


def test_the_driver_s_table_and_torch_s_architectures_are_read() -> None:
    seen = read_driver("0, NVIDIA H100 80GB HBM3, 550.54.15, 81559, 1024\n1, NVIDIA GB10, 580.1, [N/A], [N/A]\nNo devices\n")
    assert [(gpu.number, gpu.driver, gpu.used_bytes // 2**20) for gpu in seen] == [("0", "550.54.15", 1024), ("1", "580.1", 0)]
    built = ["sm_80", "sm_90a", "sm_86"]
    assert unsupported([[8, 9], [9, 0], [7, 5], [12, 0]], built) == ("sm_75", "sm_120")
    assert unsupported([[12, 0]], [*built, "compute_90"]) == ()


def test_a_server_s_missing_list_is_told_and_a_model_on_its_way_is_no_failure(
    run: Run, api: FakeApi, tmp_path: Path, no_gpu: None
) -> None:
    missing = ["Redis cannot be reached", "the model e5 is not loaded yet (state loading)"]
    body = {"missing": missing, "problems": [], "models": {"e5": {"state": "loading"}}}
    api.on("GET", "/readyz", Reply(body, 503))
    api.on("GET", "/version", Reply({"version": "0.0.1"}))
    code, found = findings(run, "--url", api.url, data=tmp_path)
    assert code == 1
    assert levels(found, "server") == ["fail", "warn", "warn"]


@pytest.mark.parametrize("reply", [Reply(b"<html>"), Reply([]), Reply({}, 404)])
def test_something_else_at_the_url_is_told(run: Run, api: FakeApi, tmp_path: Path, no_gpu: None, reply: Reply) -> None:
    api.on("GET", "/readyz", reply)
    code, found = findings(run, "--url", api.url, data=tmp_path)
    assert (code, levels(found, "server")) == (1, ["fail"])


def test_an_address_that_everybody_reaches_wants_keys(run: Run, tmp_path: Path, no_gpu: None) -> None:
    _, found = findings(run, "--address", f"0.0.0.0:{free_port()}", data=tmp_path)
    assert levels(found, "keys") == ["warn"]
    _, found = findings(run, "--address", f"0.0.0.0:{free_port()}", "--api-keys", "k", data=tmp_path)
    assert levels(found, "keys") == ["ok"]


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on() -> None:
    def check() -> Any:
        yield ok("x", "one")
        raise RuntimeError("boom")

    assert [(each.level, each.message) for each in run_check("x", check)] == [
        ("ok", "one"),
        ("warn", "could not be looked at: RuntimeError: boom"),
    ]
