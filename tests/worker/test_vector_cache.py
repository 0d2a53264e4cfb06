"""Equal texts are embedded once and kept vectors are found again; what goes wrong with that is a miss, never a wrong vector."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from shared import records
from shared.errors import EngineFailed, ModelNotReady, StorageAway
from shared.jobs.index import JobIndex
from shared.jobs.job import Job, JobParameters
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.deaths import run_past_deaths
from tests.support.engine import EngineDouble, embedded, hashed
from tests.support.jobs import input_table, submit
from tests.support.waiting import wait_until
from worker import cache_index
from worker.bulk import ShardRunner
from worker.engine import Embedded, EmbedRequest
from worker.segments import Segments
from worker.vector_cache import Landed, VectorCache

MODEL = ModelConfig(name="m", parameters=Parameters(model="fake"), backend="fake")
MEMORY_BYTES = 2**20
DIRECTORY = "cache/d"


def request(texts: Sequence[str]) -> EmbedRequest:
    return EmbedRequest(model=MODEL, lane="bulk", texts=texts)


class AskerDouble:
    """Answers as the model would, and remembers what it was asked; `before` runs first."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.asked: list[str] = []
        self._before = before

    def ask(self, texts: Sequence[str]) -> Embedded:
        self.asked += texts
        self._before()
        return embedded(request(texts))

    def wait(self, future: Future[Landed | None]) -> Landed | None:
        return future.result(10)


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


@pytest.fixture
def engine() -> EngineDouble:
    return EngineDouble()


@pytest.fixture
def runner(jobs: Jobs, engine: EngineDouble, tmp_path: Path) -> ShardRunner:
    return make_runner(jobs, engine, tmp_path)


def make_runner(jobs: Jobs, engine: EngineDouble, tmp_path: Path, worker_id: str = "w1") -> ShardRunner:
    registry = ModelRegistry({"m": MODEL})
    return ShardRunner(jobs, cast(Any, engine), registry, Settings(data_dir=tmp_path, max_attempts=2), worker_id)


def run(jobs: Jobs, runner: ShardRunner, shards: list[list[str | None]], **fields: Any) -> Job:
    job = submit(jobs, shards, **fields)
    for shard in range(len(shards)):
        runner.run(job.id, shard)
    assert jobs.view(job.id).status == "completed"
    return job


def output(jobs: Jobs, job: Job, shard: int = 0) -> pa.Table:
    with jobs.store.open_output(job.id, shard) as source:
        return records.read_table(source)


def asked(engine: EngineDouble) -> list[str]:
    texts = [text for request in engine.requests for text in request.texts]
    engine.requests.clear()
    return texts


def segments(storage: DirectoryStorage) -> list[str]:
    return [f"cache/{name}/{segment}" for name in storage.list("cache") for segment in storage.list(f"cache/{name}")]


# Property


@settings(max_examples=40, deadline=None)
@given(
    corpora=st.lists(
        st.lists(st.lists(st.text("ab", max_size=2), min_size=1, max_size=6), min_size=1, max_size=4), min_size=1, max_size=3
    ),
    workers=st.integers(1, 2),
    at_once=st.integers(1, 3),
)
def test_the_vectors_are_the_models_and_in_order_however_shards_are_cut_and_run(
    corpora: list[list[list[str]]], workers: int, at_once: int
) -> None:
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(at_once) as pool:
        storage = DirectoryStorage(Path(directory))
        caches = [VectorCache(storage, MEMORY_BYTES) for _ in range(workers)]
        askers = [AskerDouble() for _ in range(workers)]
        for corpus in corpora:
            runs = [
                pool.submit(caches[number % workers].embed, DIRECTORY, shard, askers[number % workers])
                for number, shard in enumerate(corpus)
            ]
            for shard, reused in zip(corpus, runs, strict=True):
                plain, found = embedded(request(shard)), reused.result(10).embedded
                assert found.vectors.tobytes() == plain.vectors.tobytes()
                assert found.tokens.tolist() == plain.tokens.tolist()
                assert found.truncated.tolist() == plain.truncated.tolist()
        for asker in askers:
            assert len(asker.asked) == len(set(asker.asked)), "one process embeds a text once"


# Jobs


def test_a_corpus_of_which_a_hundredth_changed_embeds_that_hundredth(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble
) -> None:
    corpus = [f"text {n}" + (" LONG" if n % 7 == 0 else "") for n in range(300)]
    run(jobs, runner, [corpus[:100], corpus[100:200], corpus[200:]], cache=True)
    assert asked(engine) == corpus
    changed = [text if n not in (5, 150, 299) else f"{text} changed" for n, text in enumerate(corpus)]
    random.Random(1).shuffle(changed)
    again = run(jobs, runner, [changed[:170], changed[170:]], cache=True)  # type: ignore[list-item]
    assert sorted(asked(engine)) == sorted(set(changed) - set(corpus))
    assert len(set(changed) - set(corpus)) == 3
    plain = run(jobs, runner, [changed[:170], changed[170:]])  # type: ignore[list-item]
    for shard in range(2):
        assert output(jobs, again, shard).equals(output(jobs, plain, shard))
    counts = jobs.view(again.id).counts
    assert (counts.deduplicated, counts.completed) == (297, 300)
    assert counts.model_copy(update={"deduplicated": 0}) == jobs.view(plain.id).counts


def test_equal_texts_of_a_job_are_embedded_once(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, storage: DirectoryStorage
) -> None:
    job = submit(jobs, [["a", "b", "a", None], ["c", "b"]], dedupe=True)
    runner.run(job.id, 0)
    assert storage.list(f"jobs/{job.id}/vectors")
    runner.run(job.id, 1)
    assert asked(engine) == ["a", "b", "c"]
    assert output(jobs, job, 0)["vector"].to_pylist() == [*hashed(["a", "b", "a"]).tolist(), None]
    assert output(jobs, job, 1)["vector"].to_pylist() == hashed(["c", "b"]).tolist()
    counts = jobs.view(job.id).counts
    assert (counts.total, counts.completed, counts.failed, counts.deduplicated) == (6, 5, 1, 2)
    # nothing stays, and nothing reaches another job
    assert storage.list(f"jobs/{job.id}/vectors") == []
    assert segments(storage) == []
    run(jobs, runner, [["a"]], dedupe=True)
    assert asked(engine) == ["a"]


def test_without_either_every_row_goes_to_the_model(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, storage: DirectoryStorage
) -> None:
    run(jobs, runner, [["a"]], cache=True)
    engine.requests.clear()
    job = run(jobs, runner, [["a", "a"]])
    assert asked(engine) == ["a", "a"]
    assert jobs.view(job.id).counts.deduplicated == 0
    assert len(segments(storage)) == 1


@pytest.mark.parametrize(
    "fields",
    [{"owner": "p"}, {"parameters": JobParameters(dimensions=2)}, {"parameters": JobParameters(truncate="error")}],
    ids=lambda fields: next(iter(fields)),
)
def test_vectors_of_other_parameters_or_owners_are_not_taken(
    fields: dict[str, Any], jobs: Jobs, runner: ShardRunner, engine: EngineDouble
) -> None:
    run(jobs, runner, [["a"]], cache=True)
    asked(engine)
    job = submit(jobs, [["a"]], cache=True)
    other = job.model_copy(update={"id": f"job_{'0' * 36}", **fields})
    jobs.store.put_input(other.id, 0, input_table(["a"]))
    jobs.submit(other)
    runner.run(other.id, 0)
    assert asked(engine) == ["a"]
    runner.run(job.id, 0)
    assert asked(engine) == []


def test_a_replaced_model_serves_no_old_vector(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    run(jobs, runner, [["a"]], cache=True)
    engine.identities["m"] = "another one"
    run(jobs, runner, [["a"]], cache=True)
    assert asked(engine) == ["a", "a"]
    engine.identities["m"] = "the first one"
    run(jobs, runner, [["a"]], cache=True)
    assert asked(engine) == []


def test_a_model_that_changes_under_a_shard_gives_all_of_its_vectors_and_none_is_kept(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, storage: DirectoryStorage
) -> None:
    run(jobs, runner, [["a"]], cache=True)
    asked(engine)

    def change(request: EmbedRequest) -> Embedded:
        engine.identities["m"] = "another one"
        return embedded(request)

    engine.answer = change
    run(jobs, runner, [["a", "b"]], cache=True)
    assert asked(engine) == ["b", "a", "b"]
    assert len(segments(storage)) == 1


def test_of_a_model_that_cannot_be_told_nothing_is_kept(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, storage: DirectoryStorage
) -> None:
    engine.identities["m"] = None
    job = run(jobs, runner, [["a", "a"]], cache=True)
    assert asked(engine) == ["a"]
    assert jobs.view(job.id).counts.deduplicated == 1
    assert segments(storage) == []


def test_a_model_that_nobody_has_loaded_yet_is_brought_in_by_one_text(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble
) -> None:
    run(jobs, runner, [["a", "b"]], cache=True)
    asked(engine)
    known = engine.identities.pop("m")

    def load(request: EmbedRequest) -> Embedded:
        engine.identities["m"] = known
        return embedded(request)

    engine.answer = load
    run(jobs, runner, [["a", "b", "c"]], cache=True)
    assert asked(engine) == ["a", "c"]


def test_errors_are_never_kept_and_truncated_texts_keep_their_flag(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    def answer(request: EmbedRequest) -> Embedded:
        errors = {n: EngineFailed("NaN") for n, text in enumerate(request.texts) if text == "bad"}
        good = embedded(request)
        return Embedded(vectors=good.vectors, tokens=good.tokens, truncated=good.truncated, errors=errors, queue_s=0, embed_s=0)

    engine.answer = answer
    first = run(jobs, runner, [["bad", "a LONG", "bad"]], cache=True)
    assert [error is None for error in output(jobs, first)["error"].to_pylist()] == [False, True, False]
    assert (jobs.view(first.id).counts.failed, jobs.view(first.id).counts.deduplicated) == (2, 0)
    asked(engine)
    engine.answer = embedded
    again = run(jobs, runner, [["bad", "a LONG"]], cache=True)
    assert asked(engine) == ["bad"]
    assert output(jobs, again)["truncated"].to_pylist() == [False, True]
    assert output(jobs, again)["tokens"].to_pylist() == [1, 2]


def test_what_was_kept_before_a_crash_is_not_embedded_again(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs, [["a", "b"]], cache=True)

    def away(*_: Any) -> bool:
        raise StorageAway("storage is full")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.store, "commit", away)
        runner.run(job.id, 0)
    jobs.index.release(job.id, "m", 0, "w1")
    runner.run(job.id, 0)
    assert jobs.view(job.id).status == "completed"
    assert asked(engine) == ["a", "b"]


@pytest.mark.parametrize("broken", ["write", "list", "read_range"])
def test_a_storage_that_fails_the_cache_does_not_fail_the_shard(
    broken: str,
    jobs: Jobs,
    engine: EngineDouble,
    tmp_path: Path,
    storage: DirectoryStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(jobs, make_runner(jobs, engine, tmp_path), [["a"]], cache=True)
    working = getattr(storage, broken)

    def away(name: str, *arguments: Any) -> Any:
        if name.startswith("cache"):
            raise StorageAway("it is away")
        return working(name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(storage, broken, away)
        job = run(jobs, make_runner(jobs, engine, tmp_path), [["a", "b"]], cache=True)
    assert output(jobs, job)["vector"].to_pylist() == hashed(["a", "b"]).tolist()


def test_nothing_of_a_deleted_job_reappears(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, storage: DirectoryStorage
) -> None:
    engine.hold = True
    job = submit(jobs, [["a"]], dedupe=True)
    thread = threading.Thread(target=runner.run, args=(job.id, 0))
    thread.start()
    wait_until(lambda: engine.requests)
    jobs.delete(jobs.view(job.id))
    engine.release()
    thread.join()
    assert storage.list("jobs") == []


def test_a_late_shard_leaves_no_vectors_behind(jobs: Jobs, tmp_path: Path, storage: DirectoryStorage) -> None:
    late = EngineDouble()
    late.hold = True
    job = submit(jobs, [["a"]], dedupe=True)
    thread = threading.Thread(target=make_runner(jobs, late, tmp_path, "w1").run, args=(job.id, 0))
    thread.start()
    wait_until(lambda: late.requests)
    jobs.index._redis.delete(f"umekomi:lease:{job.id}/0")
    make_runner(jobs, EngineDouble(), tmp_path, "w2").run(job.id, 0)
    assert jobs.view(job.id).status == "completed"
    late.release()
    thread.join()
    assert storage.list(f"jobs/{job.id}/vectors") == []


def test_the_row_that_kills_workers_is_alone_an_error_with_the_cache_too(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(jobs, runner, [["a"]], cache=True)
    job = submit(jobs, [["a", "b", "POISON", "c", "b"]], cache=True)
    run_past_deaths(jobs, runner, engine, job, monkeypatch)
    table = output(jobs, job)
    assert [error is None for error in table["error"].to_pylist()] == [True, True, False, True, True]
    vectors = table["vector"].to_pylist()
    assert vectors[:2] + vectors[3:] == hashed(["a", "b", "c", "b"]).tolist()
    assert jobs.view(job.id).counts.deduplicated == 2


# Shards at once


def test_a_shard_waits_for_the_text_that_another_is_embedding(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    engine.hold = True
    job = submit(jobs, [["a", "b"], ["c", "b"]], dedupe=True)
    threads = [threading.Thread(target=runner.run, args=(job.id, shard)) for shard in range(2)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda number=number: len(engine.requests) == number)  # type: ignore[misc]
    engine.release()
    for thread in threads:
        thread.join()
    assert asked(engine) == ["a", "b", "c"]
    assert output(jobs, job, 1)["vector"].to_pylist() == hashed(["c", "b"]).tolist()


def test_a_shard_embeds_itself_what_it_waited_for_in_vain(storage: DirectoryStorage) -> None:
    cache, is_asked, may_fail = VectorCache(storage, MEMORY_BYTES), threading.Event(), threading.Event()

    def fail() -> None:
        is_asked.set()
        may_fail.wait(10)
        raise ModelNotReady("it went")

    second = AskerDouble()
    follow, followed = second.wait, threading.Event()

    def wait(future: Future[Landed | None]) -> Landed | None:
        followed.set()
        return follow(future)

    second.wait = wait  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(cache.embed, DIRECTORY, ["a"], AskerDouble(fail))
        assert is_asked.wait(10)
        waiting = pool.submit(cache.embed, DIRECTORY, ["a", "b"], second)
        assert followed.wait(10)
        may_fail.set()
        assert waiting.result(10).embedded.vectors.tolist() == hashed(["a", "b"]).tolist()
        assert isinstance(failing.exception(10), ModelNotReady)
    assert second.asked == ["b", "a"]


def test_a_cancelled_job_does_not_wait_for_another_shard_nor_stop_it(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble
) -> None:
    engine.hold = True
    first, second = submit(jobs, [["a"]], cache=True), submit(jobs, [["a"], ["b"]], cache=True)
    threads = [threading.Thread(target=runner.run, args=(job.id, 0)) for job in (first, second)]
    threads[0].start()
    wait_until(lambda: engine.requests)
    threads[1].start()
    wait_until(lambda: any(one.job.id == second.id and one.future is not None for one in runner._running.values()))
    jobs.cancel(jobs.view(second.id))
    runner.stop_those_stopped()
    threads[1].join()
    assert jobs.store.committed(second.id) == []
    engine.release()
    threads[0].join()
    assert jobs.view(first.id).status == "completed"


def test_two_workers_find_what_the_other_kept(jobs: Jobs, tmp_path: Path) -> None:
    engines = [EngineDouble(), EngineDouble()]
    runners = [make_runner(jobs, engine, tmp_path, f"w{number}") for number, engine in enumerate(engines)]
    job = submit(jobs, [["a", "b"], ["c", "d"]], cache=True)
    threads = [threading.Thread(target=runner.run, args=(job.id, shard)) for shard, runner in enumerate(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked(engines[0]) + asked(engines[1])) == ["a", "b", "c", "d"]
    for runner, engine in zip(runners, engines, strict=True):
        runner._reuse._cache._directories.clear()  # else they may look again only a moment later
        run(jobs, runner, [["d", "a", "c", "b"]], cache=True)
        assert asked(engine) == []


# Segments that are not what they were


@pytest.mark.parametrize(
    ("damage", "misses"),
    [
        (lambda raw: raw[:-8], {"a", "b"}),  # both rows are read at once, and one is cut short
        (lambda raw: b"", {"a", "b"}),
        (lambda raw: raw[:41] + b"?" + raw[42:], {"a", "b"}),  # in the digests
        (lambda raw: raw[:-9] + b"?" + raw[-8:], {"a", "b"}),  # in the last vector
    ],
    ids=["cut", "empty", "digests", "vector"],
)
def test_a_damaged_segment_is_a_miss_and_is_removed(
    damage: Callable[[bytes], bytes],
    misses: set[str],
    jobs: Jobs,
    engine: EngineDouble,
    tmp_path: Path,
    storage: DirectoryStorage,
) -> None:
    run(jobs, make_runner(jobs, engine, tmp_path), [["a", "b"]], cache=True)
    asked(engine)
    (name,) = segments(storage)
    storage.write(name, damage(storage.read(name)))
    job = run(jobs, make_runner(jobs, engine, tmp_path), [["a", "b"]], cache=True)
    assert output(jobs, job)["vector"].to_pylist() == hashed(["a", "b"]).tolist()
    assert set(asked(engine)) == misses
    assert name not in segments(storage)
    run(jobs, make_runner(jobs, engine, tmp_path), [["a", "b"]], cache=True)
    assert asked(engine) == []


def test_a_segment_that_is_gone_is_a_miss(storage: DirectoryStorage) -> None:
    cache = VectorCache(storage, MEMORY_BYTES)
    cache.embed(DIRECTORY, ["a"], AskerDouble())
    storage.delete_tree(DIRECTORY)
    asker = AskerDouble()
    cache.embed(DIRECTORY, ["a"], asker)
    assert asker.asked == ["a"]


def test_a_segment_that_was_merged_into_another_is_looked_for_once_more(storage: DirectoryStorage) -> None:
    cache, directory = VectorCache(storage, MEMORY_BYTES), Segments(storage, DIRECTORY)
    cache.embed(DIRECTORY, ["a"], AskerDouble())
    (old,) = directory.list()
    cache._directories[DIRECTORY].fresh_until = float("inf")
    directory.write(directory.read(old), old.written_at)
    directory.delete(old)
    asker = AskerDouble()
    assert cache.embed(DIRECTORY, ["a"], asker).embedded.vectors.tolist() == hashed(["a"]).tolist()
    assert asker.asked == []


def test_of_an_index_that_is_too_large_the_newest_segments_are_known(storage: DirectoryStorage) -> None:
    writer = VectorCache(storage, MEMORY_BYTES)
    directory = Segments(storage, DIRECTORY)
    for number in range(3):
        writer.embed(DIRECTORY, [f"{number}-{row}" for row in range(10)], AskerDouble())
        newest = directory.list()[0]
        directory.write(directory.read(newest), written_at=1000.0 + number)
        directory.delete(newest)
    cache, asker = VectorCache(storage, 20 * 16), AskerDouble()
    cache.embed(DIRECTORY, ["0-0", "1-0", "2-0"], asker)
    assert asker.asked == ["0-0"]


def test_indexes_that_were_not_used_lately_make_room(storage: DirectoryStorage) -> None:
    cache = VectorCache(storage, 2 * 16)
    for directory in ("cache/a", "cache/b", "cache/c"):
        cache.embed(directory, ["1", "2"], AskerDouble())
    assert "cache/a" not in cache._directories
    asker = AskerDouble()
    cache.embed("cache/a", ["1", "2"], asker)
    assert asker.asked == []


def test_two_wait_for_a_text_and_one_gives_up_while_storage_is_full(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, is_asked, may_go = VectorCache(storage, MEMORY_BYTES), threading.Event(), threading.Event()
    is_waiting = threading.Event()

    def hold() -> None:
        is_asked.set()
        may_go.wait(10)

    class Patient(AskerDouble):
        def wait(self, future: Future[Landed | None]) -> Landed | None:
            is_waiting.set()
            return future.result(10)

    class Stopped(AskerDouble):
        def wait(self, future: Future[Landed | None]) -> Landed | None:
            future.cancel()
            return future.result(10)

    def full(*_: Any) -> None:
        raise StorageAway("storage is full")

    monkeypatch.setattr(storage, "write", full)
    patient = Patient()
    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(cache.embed, DIRECTORY, ["a"], AskerDouble(hold))
        assert is_asked.wait(10)
        waiting = pool.submit(cache.embed, DIRECTORY, ["a"], patient)
        assert is_waiting.wait(10)
        with pytest.raises(CancelledError):
            cache.embed(DIRECTORY, ["a"], Stopped())
        may_go.set()
        for one in (holding, waiting):
            assert np.array_equal(one.result(10).embedded.vectors, hashed(["a"]))
    assert patient.asked == []


def test_texts_whose_digests_begin_alike_are_told_apart(storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_index, "prefixes_of", lambda digests: np.zeros(len(digests), np.uint64))
    cache = VectorCache(storage, MEMORY_BYTES)
    for texts in (["a"], ["b", "c"], ["a", "c", "d"]):
        assert np.array_equal(cache.embed(DIRECTORY, texts, AskerDouble()).embedded.vectors, hashed(texts))
