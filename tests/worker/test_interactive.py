"""Asks that come over Redis are run and answered, whatever becomes of the worker that took them."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from shared import keys, metrics
from shared.connections import connect
from shared.errors import ContextLengthExceeded, EngineFailed, ModelNotFound, UmekomiError
from shared.interactive import Answer, Ask, AskClient, AskServer
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.presence import ModelPresence, ModelState, PresenceBoard, WorkerPresence
from tests.support.engine import EngineDouble, embedded, hashed
from tests.support.waiting import wait_until
from worker.engine import Embedded, EmbedRequest
from worker.interactive import AskLoop

REGISTRY = ModelRegistry({"m": ModelConfig(name="m", parameters=Parameters(model="fake"), backend="fake")})


def announce(redis: Redis, worker_id: str, state: ModelState = "ready") -> None:
    PresenceBoard(redis).announce(
        WorkerPresence(
            id=worker_id,
            host="h",
            pid=1,
            device="cpu",
            started_at=0,
            shards_at_once=1,
            models={"m": ModelPresence(state=state)},
        )
    )


@pytest.fixture
def client(redis_url: str) -> Iterator[AskClient]:
    client = AskClient(connect(redis_url), connect(redis_url, timeout_s=5), max_waiting=100, max_waiting_bytes=2**20)
    client.start()
    yield client
    client.stop()


def start(redis: Redis, engine: EngineDouble, worker_id: str = "w1") -> AskLoop:
    announce(redis, worker_id)
    loop = AskLoop(AskServer(redis, worker_id), cast(Any, engine), REGISTRY)
    loop.start()
    return loop


def ask(client: AskClient, *texts: str, within_s: float = 20, **fields: Any) -> Answer:
    return client.ask(Ask(id=uuid.uuid4().hex, model="m", texts=texts, deadline=time.time() + within_s, **fields))


def test_an_ask_gets_its_vectors_tokens_and_truncations(redis: Redis, client: AskClient) -> None:
    loop = start(redis, EngineDouble())
    answer = ask(client, "a", "b LONG")
    loop.stop()
    assert np.array_equal(answer.vectors, hashed(["a", "b LONG"]))
    assert list(answer.tokens) == [1, 2]
    assert list(answer.truncated) == [1]


def test_everything_an_ask_says_reaches_the_engine(redis: Redis, client: AskClient) -> None:
    engine = EngineDouble()
    loop = start(redis, engine)
    ask(client, "a", dimensions=3, prompt_name="p", input_type="query", truncate="error")
    loop.stop()
    (request,) = engine.requests
    assert (request.lane, request.dimensions, request.prompt_name) == ("interactive", 3, "p")
    assert (request.input_type, request.truncate, request.model.name) == ("query", "error", "m")


@pytest.mark.parametrize(
    "failure", [EngineFailed("it broke"), ContextLengthExceeded("too long", param="input"), RuntimeError("bug")]
)
def test_a_failure_is_the_answer(redis: Redis, client: AskClient, failure: Exception) -> None:
    engine = EngineDouble()

    def fail(request: EmbedRequest) -> Embedded:
        raise failure

    engine.answer = fail
    loop = start(redis, engine)
    expected = type(failure) if isinstance(failure, UmekomiError) else EngineFailed
    with pytest.raises(expected):
        ask(client, "a")
    loop.stop()


def test_one_failing_text_fails_its_ask(redis: Redis, client: AskClient) -> None:
    engine = EngineDouble()

    def fail(request: EmbedRequest) -> Embedded:
        good = embedded(request)
        errors = {1: EngineFailed("row 1")}
        return Embedded(vectors=good.vectors, tokens=good.tokens, truncated=good.truncated, errors=errors, queue_s=0, embed_s=0)

    engine.answer = fail
    loop = start(redis, engine)
    with pytest.raises(EngineFailed, match="row 1"):
        ask(client, "a", "b")
    loop.stop()


def test_an_ask_for_a_model_that_left_the_configuration_is_answered(redis: Redis, client: AskClient) -> None:
    loop = AskLoop(AskServer(redis, "w1"), cast(Any, EngineDouble()), ModelRegistry({}))
    announce(redis, "w1")
    loop.start()
    with pytest.raises(ModelNotFound):
        ask(client, "a")
    loop.stop()


def test_asks_of_a_dead_worker_are_answered_by_another(redis: Redis, client: AskClient) -> None:
    dead = EngineDouble()
    dead.hold = True
    first = start(redis, dead, "dead")
    with ThreadPoolExecutor(4) as pool:
        asked: list[Future[Answer]] = [pool.submit(ask, client, f"text {n}") for n in range(4)]
        wait_until(lambda: len(dead.requests) == 4)
        first.drain()  # it takes nothing more, and answers nothing: as if killed
        second = start(redis, EngineDouble(), "alive")
        second.take_over({"alive"})
        for number, future in enumerate(asked):
            assert np.array_equal(future.result().vectors, hashed([f"text {number}"]))
    second.stop()
    assert redis.xlen(keys.asks("m")) == 0
    dead.release()  # answers that come too late are passed over
    first.stop()


class NotedServer(AskServer):
    """Notes which threads send answers; `is_away`: as if Redis were, for the first one."""

    def __init__(self, redis: Redis, *, is_away: bool = False) -> None:
        super().__init__(redis, "w1")
        self._is_away = is_away
        self.senders: list[str] = []

    def answer(self, answers: Any) -> None:
        self.senders.append(threading.current_thread().name)
        if self._is_away:
            self._is_away = False
            raise RedisConnectionError("away")
        super().answer(answers)


@pytest.mark.parametrize("is_away", [False, True])
def test_the_answer_of_an_ask_that_is_alone_makes_no_detour_but_is_never_lost(
    redis: Redis, client: AskClient, is_away: bool
) -> None:
    server = NotedServer(redis, is_away=is_away)
    announce(redis, "w1")
    loop = AskLoop(server, cast(Any, EngineDouble()), REGISTRY)
    loop.start()

    assert np.array_equal(ask(client, "a").vectors, hashed(["a"]))
    loop.stop()

    assert server.senders == (["asks-short", "answers"] if is_away else ["asks-short"])


def test_stopping_answers_what_was_taken(redis: Redis, client: AskClient) -> None:
    engine = EngineDouble()
    engine.hold = True
    loop = start(redis, engine)
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(ask, client, "a")
        wait_until(lambda: engine.requests)
        stopped = pool.submit(loop.stop)
        engine.release()
        assert np.array_equal(asked.result().vectors, hashed(["a"]))
        stopped.result()


def test_asks_of_a_model_that_does_not_load_here_are_left_to_others(redis: Redis, client: AskClient) -> None:
    engine = EngineDouble()
    engine.states = {"m": ModelPresence(state="failed", reason="no file")}
    loop = start(redis, engine)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, client, "a")
        wait_until(lambda: redis.xlen(keys.asks("m")) == 1)
        other = start(redis, EngineDouble(), "w2")
        assert np.array_equal(asked.result().vectors, hashed(["a"]))
    assert engine.requests == []
    loop.stop()
    other.stop()


def test_a_worker_that_is_busy_leaves_what_more_there_is_to_others_but_takes_short_asks(redis: Redis, client: AskClient) -> None:
    engine = EngineDouble()
    engine.hold, engine.ample_tokens = True, 2048
    loop = start(redis, engine)
    loop.take_over({"w1", "w2"})
    with ThreadPoolExecutor(8) as pool:
        long = [pool.submit(ask, client, f"{number}" * 5000) for number in range(5)]
        wait_until(lambda: len(engine.requests) >= 2)
        short = pool.submit(ask, client, "a question")
        wait_until(lambda: any(len(request.texts[0]) < 99 for request in engine.requests))
        assert sum(len(request.texts[0]) > 99 for request in engine.requests) < 5
        other = start(redis, EngineDouble(), "w2")
        engine.hold = False
        engine.release()
        for future in [*long, short]:
            assert future.result().vectors.any()
    loop.stop()
    other.stop()


def test_a_worker_that_is_alone_takes_all_there_is(redis: Redis, client: AskClient) -> None:
    engine = EngineDouble()
    engine.hold, engine.ample_tokens = True, 1
    loop = start(redis, engine)
    loop.take_over({"w1"})
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, client, f"{number}" * 5000) for number in range(6)]
        wait_until(lambda: len(engine.requests) == 6)
        engine.hold = False
        engine.release()
        for future in asked:
            assert future.result().vectors.any()
    loop.stop()


def test_equal_questions_are_run_once_and_each_gets_its_own_answer(redis: Redis, client: AskClient) -> None:
    engine, before = EngineDouble(), metrics.COALESCED.value("m")
    engine.hold = True
    loop = start(redis, engine)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, client, "the same") for _ in range(8)]
        wait_until(lambda: metrics.COALESCED.value("m") - before == 7)
        engine.hold = False
        engine.release()
        for future in asked:
            assert np.array_equal(future.result().vectors, hashed(["the same"]))
    loop.stop()
    assert len(engine.requests) == 1


def test_what_a_worker_that_stops_has_not_begun_is_given_back_and_another_answers_it(redis: Redis, client: AskClient) -> None:
    # given a worker that took asks and began none of them, and another one that has the model loaded
    stopping = EngineDouble()
    stopping.hold = True
    board = PresenceBoard(redis)
    announce(redis, "w1")
    first = AskLoop(AskServer(redis, "w1"), cast(Any, stopping), REGISTRY, lambda models: board.retire("w1", models))
    first.start()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, client, f"text {number}") for number in range(4)]
        wait_until(lambda: len(stopping.requests) == 4)
        second = start(redis, EngineDouble(), "w2")

        first.drain()

        for number, future in enumerate(asked):
            assert np.array_equal(future.result().vectors, hashed([f"text {number}"]))
    first.stop()
    second.stop()
    assert redis.xlen(keys.asks("m")) == 0
    assert int(cast(Any, redis.get(keys.asks_bytes("m")))) == 0


@pytest.mark.parametrize("state", [None, "loading", "failed"])
def test_a_worker_that_stops_answers_itself_what_no_other_has_the_model_for(redis: Redis, client: AskClient, state: Any) -> None:
    engine = EngineDouble()
    engine.hold = True
    board = PresenceBoard(redis)
    announce(redis, "w1")
    if state is not None:
        announce(redis, "w2", state)
    loop = AskLoop(AskServer(redis, "w1"), cast(Any, engine), REGISTRY, lambda models: board.retire("w1", models))
    loop.start()
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(ask, client, "a")
        wait_until(lambda: engine.requests)
        loop.drain()
        wait_until(lambda: redis.zscore(keys.able("m"), "w1") is None)
        stopped = pool.submit(loop.stop)
        engine.release()
        assert np.array_equal(asked.result().vectors, hashed(["a"]))
        stopped.result()


def test_asks_left_of_a_model_that_went_are_refused_at_once_unless_another_worker_serves_it(
    redis: Redis, client: AskClient
) -> None:
    engine = EngineDouble()
    loop = AskLoop(
        AskServer(redis, "w1"), cast(Any, engine), ModelRegistry({}), lambda models: PresenceBoard(redis).retire("w1", models)
    )
    loop.refuse_departed()
    engine.states = {}
    loop.start()
    announce(redis, "w1")
    announce(redis, "w2")
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, client, "a")
        wait_until(lambda: redis.xlen(keys.asks("m")) == 1)
        loop.refuse_departed()
        loop.refuse_departed()
        assert redis.xlen(keys.asks("m")) == 1, "it is the other worker's"

        redis.zrem(keys.able("m"), "w2")
        loop.refuse_departed()  # the first to read makes the group
        loop.refuse_departed()

        with pytest.raises(ModelNotFound, match="'m' is not served here"):
            asked.result(10)
    loop.stop()


def test_an_ask_of_no_shape_at_all_is_its_own_error_and_not_the_workers(redis: Redis, client: AskClient) -> None:
    loop = start(redis, EngineDouble())
    with pytest.raises(EngineFailed, match="could not be read"):
        client.ask(Ask(id="1", model="m", texts=cast(Any, {"a": "b"}), deadline=time.time() + 20))
    assert ask(client, "a").tokens == [1]
    loop.stop()
