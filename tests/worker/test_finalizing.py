"""The end of a batch: its files, whatever came between, written again without a difference."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
from redis import Redis

from shared.errors import EngineFailed, StorageAway
from shared.files import FileStore, StoredFile, content_name
from shared.jobs.index import JobIndex
from shared.jobs.job import FINALIZE, PREPARE, Done, Job, Source, new_batch_id
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.engine import EngineDouble, embedded, hashed
from worker.bulk import ShardRunner
from worker.engine import Embedded, EmbedRequest
from worker.finalizing import Finalizer
from worker.preparing import Preparer

NATIVE = 4  # dimensions of the double


def request(custom_id: str, given: Any, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": given} | body}


class Bench:
    """A worker's end of batches, step by step."""

    def __init__(self, storage: DirectoryStorage, redis: Redis, data_dir: Path) -> None:
        self.storage = storage
        self.jobs = Jobs(JobStore(storage), JobIndex(redis))
        self.files = FileStore(storage)
        self.engine = EngineDouble()
        self.config = ModelConfig(name="m", parameters=Parameters(model="fake"), backend="fake")
        self.settings = Settings(data_dir=data_dir, max_shard_rows=3)

    def runner(self) -> ShardRunner:
        registry = ModelRegistry({"m": self.config})
        steps = {
            PREPARE: Preparer(self.jobs, self.files, self.settings, "w1"),
            FINALIZE: Finalizer(self.jobs, self.files, registry, self.settings),
        }
        return ShardRunner(self.jobs, cast(Any, self.engine), registry, self.settings, "w1", steps)

    def submit(self, *lines: dict[str, Any] | bytes, **batch: Any) -> Job:
        with self.files.create(owner="o", purpose="batch", filename="in.jsonl") as upload:
            upload.write(b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines))
        now = time.time()
        file = upload.file
        fields = {"endpoint": "/v1/embeddings", "completion_window": "24h", "input_file_id": file.id, "model": "m"}
        limits = {"max_requests": 100, "max_inputs": 100, "expires_at": int(now) + 86_400}
        job = Job(
            id=new_batch_id(),
            owner="o",
            model="m",
            created_at=now,
            shards=(),
            kind="batch",
            is_prepared=False,
            source=Source(url=content_name(file.id), format="batch", file_id=file.id),
            on_duplicate="keep",
            batch=fields | limits | batch,
        )
        return self.jobs.submit(job)

    def pending(self, job: Job) -> list[int]:
        return list(self.jobs.index.for_dealing([job.id], job.model, set(), 100)[0].pending)

    def run(self, job: Job, step: int | None = None) -> None:
        """One step, or all there are until the end."""
        runner = self.runner()
        if step is not None:
            runner.run(job.id, step)
            return
        for _ in range(20):
            if self.done(job) is not None:
                return
            for pending in self.pending(job):
                runner.run(job.id, pending)
        raise AssertionError("the batch does not end")

    def done(self, job: Job) -> Done | None:
        return self.jobs.store.done(job.id)

    def ended(self, job: Job) -> Done:
        done = self.done(job)
        assert done is not None
        return done

    def lines(self, job: Job, which: str) -> list[dict[str, Any]]:
        file_id = self.ended(job).outputs.get(which)
        if file_id is None:
            return []
        assert self.files.get(file_id, "o").purpose == "batch_output"
        with self.files.open(file_id) as source:
            return [orjson.loads(line) for line in source]

    def outputs(self) -> list[StoredFile]:
        return self.files.list("o", purpose="batch_output")[0]


@pytest.fixture
def bench(storage: DirectoryStorage, redis: Redis, tmp_path: Path) -> Bench:
    return Bench(storage, redis, tmp_path)


def unit(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return vector / np.linalg.norm(vector)


def test_a_batch_ends_with_a_line_for_every_request_in_order(bench: Bench) -> None:
    job = bench.submit(*[request(f"r{number}", f"text {number}") for number in range(10)])
    bench.run(job)
    done = bench.ended(job)
    assert done.status == "completed"
    assert (done.counts.total, done.counts.completed, done.counts.failed, done.counts.tokens) == (10, 10, 0, 20)
    assert set(done.outputs) == {"output"}
    lines = bench.lines(job, "output")
    assert [line["custom_id"] for line in lines] == [f"r{number}" for number in range(10)]
    assert len({line["id"] for line in lines}) == 10
    for number, line in enumerate(lines):
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["request_id"].startswith("req_")
        assert line["response"]["body"] == {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": hashed([f"text {number}"])[0].tolist()}],
            "model": "m",
            "usage": {"prompt_tokens": 2, "total_tokens": 2},
        }


def test_a_request_of_several_inputs_is_one_line_also_across_shards(bench: Bench) -> None:
    texts = [f"t{number}" for number in range(7)]
    job = bench.submit(request("a", "x"), request("b", texts), request("c", ["y", "z"]))
    bench.run(job)
    assert len(bench.jobs.store.get(job.id).shards) > 2
    assert bench.ended(job).counts.total == 3
    assert bench.ended(job).counts.completed == 3
    several = bench.lines(job, "output")[1]["response"]["body"]
    assert [entry["index"] for entry in several["data"]] == list(range(7))
    assert [entry["embedding"] for entry in several["data"]] == hashed(texts).tolist()
    assert several["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_each_request_has_its_own_dimensions_and_encoding(bench: Bench) -> None:
    job = bench.submit(
        request("a", "x", dimensions=2),
        request("b", ["x", "y"], dimensions=3, encoding_format="base64"),
        request("c", "x", dimensions=NATIVE, encoding_format="float"),
        request("d", "x", encoding_format=None),
    )
    bench.run(job)
    a, b, c, d = (line["response"]["body"]["data"] for line in bench.lines(job, "output"))
    x, y = hashed(["x", "y"])
    np.testing.assert_allclose(a[0]["embedding"], unit(x[:2]), rtol=1e-6)
    decoded = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in b]
    np.testing.assert_allclose(decoded, [unit(x[:3]), unit(y[:3])], rtol=1e-6)
    assert c[0]["embedding"] == d[0]["embedding"] == x.tolist()


def test_the_models_own_dimensions_hold_unless_a_request_says_otherwise(bench: Bench) -> None:
    bench.config = bench.config.model_copy(update={"dimensions": 2})
    job = bench.submit(request("a", "x"), request("b", "x", dimensions=3))
    bench.run(job)
    a, b = (line["response"]["body"]["data"][0]["embedding"] for line in bench.lines(job, "output"))
    assert (len(a), len(b)) == (2, 3)


def test_requests_that_are_wrong_are_lines_of_the_error_file_and_the_others_complete(bench: Bench) -> None:
    def failing(asked: EmbedRequest) -> Embedded:
        found = embedded(asked)
        return replace(found, errors={n: EngineFailed("it broke") for n, text in enumerate(asked.texts) if text == "bad"})

    bench.engine.answer = failing
    job = bench.submit(
        request("empty", ""), request("good", "x"), request("large", "x", dimensions=NATIVE + 1), request("half", ["x", "bad"])
    )
    bench.run(job)
    done = bench.ended(job)
    assert (done.status, done.counts.total, done.counts.completed, done.counts.failed) == ("completed", 4, 1, 3)
    assert [line["custom_id"] for line in bench.lines(job, "output")] == ["good"]
    wrong = {line["custom_id"]: line for line in bench.lines(job, "error")}
    assert list(wrong) == ["empty", "large", "half"]
    assert {name: line["response"]["status_code"] for name, line in wrong.items()} == {"empty": 400, "large": 400, "half": 500}
    assert wrong["empty"]["error"] is None
    assert wrong["empty"]["response"]["body"]["error"] == {
        "message": "input: the text at position 0 is empty",
        "type": "invalid_request_error",
        "param": "input",
        "code": "invalid_value",
    }
    assert wrong["large"]["response"]["body"]["error"]["param"] == "dimensions"
    assert wrong["half"]["response"]["body"]["error"]["code"] == "engine_failed"
    assert wrong["half"]["response"]["body"]["error"]["type"] == "server_error"


def test_a_batch_of_which_every_request_failed_is_completed_without_an_output_file(bench: Bench) -> None:
    job = bench.submit(request("a", ""), request("b", []))
    bench.run(job)
    assert bench.ended(job).status == "completed"
    assert set(bench.ended(job).outputs) == {"error"}
    assert bench.ended(job).counts.failed == 2


def test_a_wrong_file_fails_the_batch_with_its_errors(bench: Bench) -> None:
    job = bench.submit(request("a", "x"), b"no json", request("a", "y"))
    bench.run(job)
    done = bench.ended(job)
    assert done.status == "failed"
    assert [(error["code"], error["line"]) for error in done.errors] == [("invalid_json_line", 2), ("duplicate_custom_id", 3)]
    assert bench.engine.requests == []
    assert bench.outputs() == []


def test_an_input_file_that_is_deleted_before_it_is_read_fails_the_batch(bench: Bench) -> None:
    job = bench.submit(request("a", "x"))
    assert job.source is not None
    bench.files.delete(bench.files.get(str(job.source.file_id), "o"))
    bench.run(job)
    done = bench.ended(job)
    assert done.status == "failed"
    assert "file" in (done.reason or "")
    assert len(done.errors) == 1


def test_a_cancelled_batch_keeps_what_was_run_and_says_of_the_rest_that_it_was_not(bench: Bench) -> None:
    job = bench.submit(request("a", ["x"] * 3), request("b", ""), *[request(f"r{number}", "y") for number in range(8)])
    bench.run(job, PREPARE)
    bench.run(job, 0)
    bench.jobs.cancel(bench.jobs.view(job.id))
    assert bench.pending(job) == [FINALIZE]
    bench.run(job)
    done = bench.ended(job)
    assert done.status == "cancelled"
    assert (done.counts.total, done.counts.completed, done.counts.failed) == (10, 1, 9)
    assert [line["custom_id"] for line in bench.lines(job, "output")] == ["a"]
    wrong = bench.lines(job, "error")
    assert [line["custom_id"] for line in wrong] == ["b", *[f"r{number}" for number in range(8)]]
    assert wrong[0]["response"]["status_code"] == 400
    for line in wrong[1:]:
        assert line["response"] is None
        assert line["error"]["code"] == "batch_cancelled"


def test_a_request_half_of_which_was_run_was_not_run(bench: Bench) -> None:
    job = bench.submit(request("a", ["x"] * 5))
    bench.run(job, PREPARE)
    bench.run(job, 0)
    bench.jobs.cancel(bench.jobs.view(job.id))
    bench.run(job)
    assert [line["error"]["code"] for line in bench.lines(job, "error")] == ["batch_cancelled"]
    assert bench.lines(job, "output") == []


def test_a_batch_cancelled_before_it_was_read_ends_without_files(bench: Bench) -> None:
    job = bench.submit(request("a", "x"))
    bench.jobs.cancel(bench.jobs.view(job.id))
    assert bench.pending(job) == [FINALIZE]
    bench.run(job, PREPARE)
    bench.run(job)
    done = bench.ended(job)
    assert (done.status, done.counts.total, done.outputs) == ("cancelled", 0, {})


def test_a_batch_whose_time_is_over_expires_with_what_it_has(bench: Bench) -> None:
    job = bench.submit(*[request(f"r{number}", "x") for number in range(9)], expires_at=int(time.time()) + 3600)
    bench.run(job, PREPARE)
    bench.run(job, 0)
    manifest = bench.storage.read(f"jobs/{job.id}/job.json")
    bench.storage.write(f"jobs/{job.id}/job.json", manifest.replace(b'"expires_at":', b'"expires_at":1,"was":'))
    bench.jobs.announce(job.id)
    assert bench.pending(job) == [FINALIZE]
    before = len(bench.engine.requests)
    bench.run(job, 1)
    assert len(bench.engine.requests) == before
    bench.run(job)
    done = bench.ended(job)
    assert (done.status, done.finalizing_at) == ("expired", 1)
    assert len(bench.lines(job, "output")) == 3
    assert {line["error"]["code"] for line in bench.lines(job, "error")} == {"batch_expired"}
    assert (done.counts.completed, done.counts.failed) == (3, 6)


def crash_points(bench: Bench, job: Job) -> Iterator[Callable[[], None]]:
    """Storage that fails once, at each write of the last step in turn."""
    real_create, real_writer = bench.storage.create, bench.storage.writer

    for number in range(30):
        calls = iter(range(1000))

        def fails(*arguments: Any, stop: int = number, counter: Iterator[int] = calls, real: Any = None) -> Any:
            if next(counter) == stop:
                raise StorageAway("it died here")
            return real(*arguments)

        def install(fails: Any = fails) -> None:
            bench.storage.create = lambda *a: fails(*a, real=real_create)  # type: ignore[method-assign]
            bench.storage.writer = lambda *a: fails(*a, real=real_writer)  # type: ignore[method-assign]

        yield install
        bench.storage.create, bench.storage.writer = real_create, real_writer  # type: ignore[method-assign]


def test_a_last_step_that_dies_anywhere_is_done_again_without_a_second_file(bench: Bench) -> None:
    job = bench.submit(*[request(f"r{number}", "x") for number in range(4)], request("bad", ""))
    for step in (PREPARE, 0, 1):
        bench.run(job, step)
    finalizer = Finalizer(bench.jobs, bench.files, ModelRegistry({"m": bench.config}), bench.settings)
    deaths = 0
    for install in crash_points(bench, job):
        install()
        with suppress(StorageAway):
            finalizer(bench.jobs.from_storage(job.id), lambda: False)
            break
        deaths += 1
    assert deaths > 4
    bench.run(job)
    assert bench.ended(job).status == "completed"
    assert len(bench.lines(job, "output")) == 4
    assert len(bench.lines(job, "error")) == 1
    assert {file.id for file in bench.outputs()} == set(bench.ended(job).outputs.values())
    assert bench.storage.list("files-unfinished") == []


def test_two_last_steps_at_once_make_the_same_files(bench: Bench) -> None:
    job = bench.submit(*[request(f"r{number}", "x") for number in range(4)], request("bad", ""))
    for step in (PREPARE, 0, 1):
        bench.run(job, step)
    finalizer = Finalizer(bench.jobs, bench.files, ModelRegistry({"m": bench.config}), bench.settings)
    view = bench.jobs.from_storage(job.id)
    ending = finalizer._decide(view)
    assert ending is not None
    first = finalizer._write(view.job, ending)
    bench.storage.delete(f"files/{first.outputs['output']}/file.json")  # as if the other were not so far yet
    with bench.files.open(first.outputs["output"]) as source:
        content = source.read()
    finalizer(view, lambda: False)
    assert bench.ended(job).outputs == first.outputs
    with bench.files.open(first.outputs["output"]) as source:
        assert source.read() == content
    assert len(bench.outputs()) == 2


def test_a_batch_that_is_cancelled_while_its_files_are_written_ends_as_it_was_decided(bench: Bench) -> None:
    job = bench.submit(request("a", "x"))
    bench.run(job, PREPARE)
    bench.run(job, 0)
    finalizer = Finalizer(bench.jobs, bench.files, ModelRegistry({"m": bench.config}), bench.settings)
    assert finalizer._decide(bench.jobs.from_storage(job.id)) is not None
    bench.jobs.cancel(bench.jobs.view(job.id))
    bench.run(job)
    assert bench.ended(job).status == "completed"
    assert len(bench.lines(job, "output")) == 1


@pytest.mark.parametrize("damage", [b"", b"PAR1 no parquet PAR1"])
def test_a_damaged_output_is_run_again(bench: Bench, damage: bytes) -> None:
    job = bench.submit(*[request(f"r{number}", "x") for number in range(6)])
    bench.run(job, PREPARE)
    shards = bench.jobs.store.get(job.id).shards
    for shard in range(len(shards)):
        bench.run(job, shard)
    bench.storage.write(f"jobs/{job.id}/output/00001.parquet", damage)
    bench.run(job)
    assert len(bench.lines(job, "output")) == 6


def test_rows_that_are_damaged_behind_a_good_footer_are_run_again(bench: Bench) -> None:
    job = bench.submit(*[request(f"r{number}", "x") for number in range(6)])
    bench.run(job, PREPARE)
    for shard in range(len(bench.jobs.store.get(job.id).shards)):
        bench.run(job, shard)
    name = f"jobs/{job.id}/output/00001.parquet"
    content = bench.storage.read(name)
    bench.storage.write(name, content[:4] + b"\xff" * 60 + content[64:])
    bench.run(job, FINALIZE)
    assert bench.done(job) is None
    assert not bench.storage.exists(name)
    assert bench.pending(job) == [1]
    bench.jobs.index.release(job.id, "m", FINALIZE, "w1")  # a step that is put off keeps its lease, which runs out
    bench.run(job)
    assert len(bench.lines(job, "output")) == 6


def test_outputs_go_when_the_batch_says_so_or_the_settings(bench: Bench) -> None:
    said = bench.submit(request("a", "x"), output_expires_after_s=3600)
    unsaid = bench.submit(request("a", "x"))
    for job, seconds in ((said, 3600), (unsaid, 30 * 86_400)):
        bench.run(job)
        file = bench.files.get(bench.ended(job).outputs["output"], "o")
        assert file.expires_at == pytest.approx(file.created_at + seconds)
        assert file.filename == f"{job.id}_output.jsonl"


def test_requests_are_counted_while_the_batch_runs(bench: Bench) -> None:
    job = bench.submit(request("a", ["x"] * 5), request("b", ""), request("c", "x"), request("d", ["x"] * 2))
    bench.run(job, PREPARE)
    assert bench.jobs.store.get(job.id).requests == 4
    seen = []
    for shard in range(len(bench.jobs.store.get(job.id).shards)):
        bench.run(job, shard)
        committed = bench.jobs.view(job.id).committed.values()
        seen.append((sum(counts.requests for counts in committed), sum(counts.failed_requests for counts in committed)))
    assert seen == sorted(seen)
    assert seen[-1] == (4, 1)
