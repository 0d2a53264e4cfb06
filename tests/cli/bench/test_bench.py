"""`umekomi bench` against servers that answer as a test says."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest

from tests.support.api import Answerer, Asked, FakeApi, Reply
from tests.support.commands import Run

QUICK = ("--seconds", "0.1", "--warm-up", "0", "--clients", "1,2")
NOT_FOUND = Reply({"detail": "Not Found"}, 404)


def answer(usage: bool = True) -> Answerer:
    def embed(asked: Asked) -> Reply:
        texts = asked.json["input"] if isinstance(asked.json["input"], list) else [asked.json["input"]]
        vector = [0.0, 1.0, 0.5]
        packed = base64.b64encode(struct.pack("<3f", *vector)).decode() if asked.json["encoding_format"] == "base64" else vector
        data = [{"index": index, "embedding": packed} for index in range(len(texts))]
        told = {"usage": {"prompt_tokens": 7 * len(texts), "total_tokens": 7 * len(texts)}} if usage else {}
        return Reply({"object": "list", "model": asked.json.get("model", "default"), "data": data} | told)

    return embed


@pytest.fixture
def server(api: FakeApi) -> FakeApi:
    api.on("POST", "/v1/embeddings", answer())
    api.on("GET", "/v1/models", Reply({"data": [{"id": "e5"}]}))
    return api


def result_of(ask: Run, *arguments: object) -> dict[str, object]:
    said = ask("bench", *QUICK, "--json", "-", *arguments)
    assert said.exit_code == 0, said.stderr
    return json.loads(said.stdout)  # type: ignore[no-any-return]


def test_a_run_for_each_number_of_clients_tells_rates_latencies_and_tokens(ask: Run, server: FakeApi) -> None:
    result = result_of(ask, "--batch", 4)
    assert (result["model"], result["dimensions"], result["batch"]) == ("e5", 3, 4)
    runs = result["runs"]
    assert isinstance(runs, list)
    assert [run["clients"] for run in runs] == [1, 2]
    for run in runs:
        assert run["requests"] > 0
        assert run["errors"] == {}
        assert (run["texts"], run["tokens"]) == (4 * run["requests"], 28 * run["requests"])
        latency = run["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
        assert run["texts_per_s"] == pytest.approx(run["texts"] / run["seconds"])


def test_the_same_seed_sends_the_same_texts_and_never_one_twice(ask: Run, server: FakeApi) -> None:
    def sent(seed: int) -> list[str]:
        server.asked.clear()
        result_of(ask, "--clients", 1, "--seed", seed, "--words", "5..9")
        return [asked.json["input"] for asked in server.asked if asked.path == "/v1/embeddings"][1:]

    one, again, other = sent(1), sent(1), sent(2)
    assert one[:2] == again[:2] != other[:2]
    assert len(set(one)) == len(one)
    assert all(5 <= len(text.split()) <= 9 for text in one)


def test_texts_come_from_a_file(ask: Run, server: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("雪\n\nsnow\n", encoding="utf-8")
    result_of(ask, "--texts", tmp_path / "texts.txt")
    assert {asked.json["input"] for asked in server.asked if asked.path == "/v1/embeddings"} == {"warm-up", "雪", "snow"}


def test_a_server_without_the_prefix_v1_is_found(ask: Run, api: FakeApi) -> None:
    api.on("POST", "/v1/embeddings", NOT_FOUND)
    api.on("POST", "/embeddings", answer(usage=False))
    runs = result_of(ask)["runs"]
    assert isinstance(runs, list)
    assert runs[0]["requests"] > 0
    assert runs[0]["tokens"] is None


def test_what_fails_is_counted_by_kind_and_no_latency(ask: Run, server: FakeApi) -> None:
    ok, busy = answer(), Reply({"error": {"message": "busy"}}, 429)
    server.on("POST", "/v1/embeddings", ok, ok, busy, Reply({"data": []}), Reply(b"<html>"), busy)
    runs = result_of(ask, "--clients", 1, "--seconds", 0.5)["runs"]
    assert isinstance(runs, list)
    errors = runs[0]["errors"]
    assert errors["HTTP 429"] >= 2
    assert (errors["wrong number of vectors"], errors["not an answer with vectors"]) == (1, 1)
    assert runs[0]["requests"] == 1


def test_a_connection_that_breaks_is_an_error_and_the_client_goes_on(ask: Run, server: FakeApi) -> None:
    ok = answer()
    server.on("POST", "/v1/embeddings", ok, ok, Reply(b"x" * 100, cut_at=10), ok)
    runs = result_of(ask, "--clients", 1, "--seconds", 0.3)["runs"]
    assert isinstance(runs, list)
    assert runs[0]["errors"] == {"connection broke": 1}
    assert runs[0]["requests"] > 1


def test_the_key_goes_along_and_stays_out_of_the_result(ask: Run, server: FakeApi) -> None:
    said = ask("bench", *QUICK, "--api-key", "sk-secret", "--json", "-")
    assert all(asked.headers["authorization"] == "Bearer sk-secret" for asked in server.asked)
    assert "sk-secret" not in said.stdout + said.stderr


def test_a_refusal_of_the_first_request_is_told_in_the_server_s_words(ask: Run, api: FakeApi) -> None:
    api.on("POST", "/v1/embeddings", Reply({"error": {"message": "no model x", "code": "model_not_found"}}, 404))
    result = ask("bench", *QUICK, "--model", "x")
    assert (result.exit_code, "no model x" in result.stderr) == (1, True)


def test_of_several_models_one_has_to_be_chosen(ask: Run, api: FakeApi) -> None:
    api.on("GET", "/v1/models", Reply({"data": [{"id": "e5", "owned_by": "x"}, {"id": "bge", "owned_by": "x"}]}))
    result = ask("bench", *QUICK)
    assert result.exit_code == 2
    assert "e5, bge" in result.stderr


def test_a_kept_result_is_shown_beside_with_ratios(ask: Run, server: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    assert ask("bench", *QUICK, "--label", "theirs", "--json", file).exit_code == 0
    result = ask("bench", *QUICK, "--label", "ours", "--compare", file, "--batch", 2)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    first = next(number for number, row in enumerate(rows) if row[:2] == ["1", "ours"])
    assert [rows[first + 1][0], rows[first + 2][0]] == ["theirs", "ratio"]
    assert rows[first + 2][1].endswith("x")
    assert "not the same conditions" in result.stdout


@pytest.mark.parametrize("content", ["", "[]", '{"label": "x"}'])
def test_a_file_of_something_else_cannot_be_compared_with(ask: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    result = ask("bench", "--compare", tmp_path / "x.json")
    assert result.exit_code == 2
    assert "not a file of `umekomi bench --json`" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("--clients", "0"), ("--clients", "many"), ("--words", "9..3"), ("--words", "x"), ("--json", "/nowhere/x.json")]
)
def test_a_wrong_flag_is_told_before_anything_is_sent(ask: Run, api: FakeApi, arguments: tuple[str, str]) -> None:
    result = ask("bench", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert api.asked == []


def test_a_job_runs_beside_and_is_deleted(ask: Run, server: FakeApi) -> None:
    jobs = "/v1/embeddings/jobs"
    counts = {"total": 20, "completed": 20, "failed": 0}
    job = {"id": "job_1", "status": "completed", "model": "e5", "counts": counts, "created_at": 100.0, "finished_at": 102.0}
    server.on("POST", jobs, Reply(job, 202))
    server.on("GET", f"{jobs}/job_1", Reply(job))
    server.on("DELETE", f"{jobs}/job_1", Reply({"id": "job_1"}))
    result = result_of(ask, "--jobs", 20)
    runs, told = result["runs"], result["job"]
    assert isinstance(runs, list)
    assert isinstance(told, dict)
    assert [run["beside_job"] for run in runs] == [False, False, True, True]
    assert (told["completed"], told["texts_per_s"]) == (20, 10.0)
    submitted = next(asked for asked in server.asked if asked.path == jobs)
    assert len(submitted.body.splitlines()) == 20
    assert server.asked[-1].method == "DELETE"
