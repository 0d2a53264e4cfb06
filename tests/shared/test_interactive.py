"""The interactive lane on a real Valkey: bounds, deadlines, takeovers, and asks that outlive Redis and workers."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from redis import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.connections import BLOCKING_TIMEOUT_S, connect
from shared.errors import (
    ContextLengthExceeded,
    DeadlinePassed,
    EngineFailed,
    InvalidParameter,
    LaneFull,
    NoWorker,
    RedisAway,
    Unavailable,
)
from shared.interactive import Answer, Ask, AskClient, AskServer, TakenAsk, decode_answer, encode_answer
from shared.interactive import client as client_end
from shared.interactive import server as server_end
from shared.interactive.wire import ANSWERS_EXPIRE_S, encode_ask
from shared.presence import ModelPresence, PresenceBoard, WorkerPresence
from tests.support.valkey import Valkey, free_port
from tests.support.waiting import wait_until

MODEL = "m"
LONG_AGO = 1.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's seconds are fractions of one here."""
    monkeypatch.setattr(client_end, "BLOCK_S", 0.1)
    monkeypatch.setattr(server_end, "BLOCK_S", 0.1)
    monkeypatch.setattr(client_end, "MISSING_AFTER_S", 0.3)


def make_ask(*texts: str, model: str = MODEL, within_s: float = 20.0) -> Ask:
    return Ask(id=uuid.uuid4().hex, model=model, deadline=time.time() + within_s, texts=texts or ("a text",))


def answer_of(ask: Ask) -> Answer:
    """A vector per text that tells which text it was."""
    vectors = np.array([[len(text), sum(text.encode())] for text in ask.texts], dtype=np.float32)
    return Answer(vectors=vectors, tokens=[len(text) for text in ask.texts])


def announce(redis: Redis, worker_id: str, *models: str, state: str = "ready") -> WorkerPresence:
    worker = WorkerPresence(
        id=worker_id,
        host="here",
        pid=1,
        device="cpu",
        started_at=LONG_AGO,
        shards_at_once=1,
        models={model: ModelPresence(state=state) for model in models or (MODEL,)},  # type: ignore[arg-type]
    )
    PresenceBoard(redis).announce(worker)
    return worker


class Worker:
    """A small worker: announces itself, answers every ask with `answer_of`, sweeps, until it is stopped."""

    def __init__(self, url: str, *models: str) -> None:
        self.id = f"worker-{uuid.uuid4().hex[:8]}"
        self.answered: list[str] = []
        self._redis = connect(url, timeout_s=BLOCKING_TIMEOUT_S)
        self._models = models or (MODEL,)
        self._server = AskServer(self._redis, self.id)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.id)

    def __enter__(self) -> Worker:
        announce(self._redis, self.id, *self._models)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._redis.close()

    def _run(self) -> None:
        board = PresenceBoard(self._redis)
        while not self._stopping.is_set():
            try:
                announce(self._redis, self.id, *self._models)
                taken = self._server.take(self._models, 16, block_s=0.2)
                taken += self._server.take_over(self._models, board.is_alive)
                self._server.answer([(one, answer_of(one.ask)) for one in taken])
                self.answered += [one.ask.id for one in taken]
            except RedisError:
                self._stopping.wait(0.05)


@pytest.fixture
def make_client(redis_url: str) -> Iterator[Callable[..., AskClient]]:
    opened: list[tuple[AskClient, Redis, Redis]] = []

    def make(url: str = redis_url, *, max_waiting: int = 100, max_waiting_bytes: int = 2**20) -> AskClient:
        commands, blocking = connect(url), connect(url, timeout_s=BLOCKING_TIMEOUT_S)
        client = AskClient(commands, blocking, max_waiting=max_waiting, max_waiting_bytes=max_waiting_bytes)
        client.start()
        opened.append((client, commands, blocking))
        return client

    yield make
    for client, commands, blocking in opened:
        client.stop()
        commands.close()
        blocking.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(48) as pool:
        yield pool


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server that the test may kill."""
    server = Valkey(tmp_path, append_only=True)
    server.start()
    yield server
    server.kill()


def take_all(server: AskServer, count: int, *models: str, length: keys.AskLength = "short") -> list[TakenAsk]:
    taken: list[TakenAsk] = []
    wait_until(
        lambda: taken.extend(server.take(models or (MODEL,), 64, block_s=0.2, length=length)) or len(taken) >= count  # type: ignore[func-returns-value]
    )
    return taken


def assert_lane_empty(redis: Redis, model: str = MODEL, length: keys.AskLength = "short") -> None:
    assert redis.xlen(keys.asks(model, length)) == 0
    assert int(redis.get(keys.asks_bytes(model, length)) or 0) == 0  # type: ignore[arg-type]
    assert redis.xpending(keys.asks(model, length), keys.ASK_GROUP)["pending"] == 0  # type: ignore[index]


# The wire


def test_an_answer_survives_the_wire() -> None:
    vectors = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)

    ask_id, answer = decode_answer(
        encode_answer("a", Answer(vectors=vectors, tokens=[1, 2, 3], truncated=[1], queue_ms=1.5, embed_ms=2.5))
    )

    assert isinstance(answer, Answer)
    assert ask_id == "a"
    assert np.array_equal(answer.vectors, vectors)
    assert (answer.tokens, answer.truncated, answer.queue_ms, answer.embed_ms) == ([1, 2, 3], [1], 1.5, 2.5)


@pytest.mark.parametrize("vectors", [np.zeros((0, 4), np.float32), np.arange(12, dtype=np.float64).reshape(4, 3)[::2, ::-1]])
def test_vectors_of_any_shape_and_layout_survive_the_wire(vectors: np.ndarray) -> None:  # type: ignore[type-arg]
    _, answer = decode_answer(encode_answer("a", Answer(vectors=vectors, tokens=[])))

    assert isinstance(answer, Answer)
    assert np.array_equal(answer.vectors, vectors)
    assert answer.vectors.dtype == np.float32


def test_an_error_survives_the_wire() -> None:
    _, error = decode_answer(encode_answer("a", Unavailable("soon", retry_after_s=7.5)))
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 7.5

    _, error = decode_answer(encode_answer("a", InvalidParameter("no such prompt", param="prompt_name", code="invalid_type")))
    assert type(error) is InvalidParameter
    assert (error.message, error.param, error.reason) == ("no such prompt", "prompt_name", "invalid_type")


# Asking


@pytest.mark.parametrize("protocol", [2, 3])
def test_an_ask_is_answered_in_either_protocol(
    redis: Redis, redis_url: str, make_client: Callable[..., AskClient], protocol: int
) -> None:
    url = f"{redis_url}?protocol={protocol}"
    with Worker(url) as worker:
        ask = Ask(
            id="one",
            model=MODEL,
            deadline=time.time() + 20,
            texts=["夕飯はお肉です。", "x"],
            dimensions=2,
            prompt_name="query",
            input_type="query",
            truncate="end",
        )
        answer = make_client(url).ask(ask)

    assert np.array_equal(answer.vectors, answer_of(ask).vectors)
    assert worker.answered == ["one"]
    assert_lane_empty(redis)


def test_everything_about_an_ask_reaches_the_worker(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    announce(redis, "w")
    ask = Ask(
        id="i",
        model=MODEL,
        deadline=time.time() + 20,
        token_ids=[[1, 2], [3]],
        dimensions=8,
        prompt_name="p",
        input_type="document",
        truncate="error",
    )
    client = make_client()
    server = AskServer(redis, "w")
    thread = threading.Thread(target=client.ask, args=(ask,))
    thread.start()

    (taken,) = take_all(server, 1)
    server.answer([(taken, Answer(vectors=np.zeros((2, 2), np.float32), tokens=[4, 3]))])
    thread.join()

    assert replace(taken.ask, texts=[]) == replace(ask, texts=[])
    assert len(taken.ask) == 2


def test_the_workers_error_is_raised_where_the_client_waits(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client = make_client()
    waiting = threads.submit(client.ask, make_ask())
    server = AskServer(redis, "w")

    (taken,) = take_all(server, 1)
    server.answer([(taken, ContextLengthExceeded("text 3 has 700 tokens", param="input"))])

    with pytest.raises(ContextLengthExceeded, match="text 3 has 700 tokens"):
        waiting.result(20)
    assert_lane_empty(redis)


def test_an_ask_of_several_models_reaches_who_serves_them(
    redis: Redis, redis_url: str, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    names = ["one", "org/two", "drei three"]
    client = make_client()
    with Worker(redis_url, *names):
        asks = [make_ask(f"{name} {number}", model=name) for name in names for number in range(5)]
        answers = list(threads.map(client.ask, asks))

    for ask, answer in zip(asks, answers, strict=True):
        assert np.array_equal(answer.vectors, answer_of(ask).vectors)
    for name in names:
        assert_lane_empty(redis, name)


def test_many_threads_and_two_workers_each_get_their_own_answer_once(
    redis: Redis, redis_url: str, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    client = make_client()
    with Worker(redis_url) as first, Worker(redis_url) as second:
        asks = [make_ask(*(f"{number}-{row}" for row in range(number % 4 + 1))) for number in range(1200)]
        answers = list(threads.map(client.ask, asks))

    for ask, answer in zip(asks, answers, strict=True):
        assert np.array_equal(answer.vectors, answer_of(ask).vectors)
    assert sorted(first.answered + second.answered) == sorted(ask.id for ask in asks)
    assert first.answered
    assert second.answered
    assert client.waiting == 0
    assert_lane_empty(redis)


# Bounds


def test_answers_of_one_round_trip_go_to_their_own_processes_whatever_their_size(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_end, "MAX_BYTES_OF_CALL", 300)
    announce(redis, "w")
    clients, server = [make_client(), make_client()], AskServer(redis, "w")
    asks = [make_ask(*(f"{number} {text}" for text in range(1 + 50 * (number == 3)))) for number in range(8)]
    answered = [threads.submit(clients[number % 2].ask, ask) for number, ask in enumerate(asks)]
    taken = take_all(server, 8)

    server.answer([(one, answer_of(one.ask)) for one in taken])

    for ask, future in zip(asks, answered, strict=True):
        np.testing.assert_array_equal(future.result(20).vectors, answer_of(ask).vectors)
    assert_lane_empty(redis)


def test_no_live_worker_is_said_at_once(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    announce(redis, "w", "another model")

    with pytest.raises(NoWorker, match="'m'"):
        make_client().ask(make_ask())


def test_a_worker_whose_presence_lapsed_does_not_count(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    announce(redis, "w")
    redis.zadd(keys.able(MODEL), {"w": time.time() - 1})

    with pytest.raises(NoWorker):
        make_client().ask(make_ask())


def test_a_worker_that_cannot_load_the_model_does_not_count(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    announce(redis, "w")
    announce(redis, "w", state="failed")

    with pytest.raises(NoWorker):
        make_client().ask(make_ask())


def test_a_full_lane_refuses_and_takes_again_once_there_is_room(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client = make_client(max_waiting=3)
    server = AskServer(redis, "w")
    waiting = [threads.submit(client.ask, make_ask()) for _ in range(3)]
    wait_until(lambda: redis.xlen(keys.asks(MODEL)) == 3)

    with pytest.raises(LaneFull):
        client.ask(make_ask())
    taken = take_all(server, 3)
    with pytest.raises(LaneFull):  # what is being run counts too
        client.ask(make_ask())
    server.answer([(one, answer_of(one.ask)) for one in taken])
    for future in waiting:
        future.result(20)

    again = threads.submit(client.ask, make_ask())
    (taken_again,) = take_all(server, 1)
    server.answer([(taken_again, answer_of(taken_again.ask))])
    again.result(20)
    assert_lane_empty(redis)


def test_the_bytes_that_wait_are_bounded_but_one_large_ask_alone_enters(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client = make_client(max_waiting_bytes=2**16)
    large = threads.submit(client.ask, make_ask("x" * 2**17))
    wait_until(lambda: redis.xlen(keys.asks(MODEL, "long")) == 1)

    with pytest.raises(LaneFull):
        client.ask(make_ask("y" * 2**17))

    server = AskServer(redis, "w")
    (taken,) = take_all(server, 1, length="long")
    server.answer([(taken, answer_of(taken.ask))])
    large.result(20)
    assert_lane_empty(redis, length="long")


def test_long_asks_neither_stand_before_short_ones_nor_take_their_room(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client = make_client(max_waiting=2)
    texts = ["x" * 2**17, "y" * 2**17, "z" * 2**13, "a question"]
    asked = [threads.submit(client.ask, make_ask(text)) for text in texts]
    lengths: list[tuple[keys.AskLength, int]] = [("long", 2), ("medium", 1), ("short", 1)]
    wait_until(lambda: [redis.xlen(keys.asks(MODEL, length)) for length, _ in lengths] == [2, 1, 1])

    server = AskServer(redis, "w")
    for length, count in reversed(lengths):
        taken = take_all(server, count, length=length)
        server.answer([(one, answer_of(one.ask)) for one in taken])
    for future in asked:
        future.result(20)
    for length, _ in lengths:
        assert_lane_empty(redis, length=length)


def test_a_script_that_redis_forgot_is_given_to_it_again(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client, server = make_client(), AskServer(redis, "w")
    for count in (1, 3):
        redis.script_flush()
        asked = [threads.submit(client.ask, make_ask(f"{number}")) for number in range(count)]
        taken = take_all(server, count)
        redis.script_flush()
        server.answer([(one, answer_of(one.ask)) for one in taken])
        for future in asked:
            future.result(20)
    assert_lane_empty(redis)


# Deadlines


def test_an_ask_past_its_deadline_is_not_sent(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    announce(redis, "w")

    with pytest.raises(DeadlinePassed):
        make_client().ask(make_ask(within_s=-1))
    assert not redis.exists(keys.asks(MODEL))


def test_an_ask_given_up_leaves_the_lane_though_no_worker_reads_it(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    announce(redis, "w")
    client = make_client()

    with pytest.raises(DeadlinePassed):
        client.ask(make_ask(within_s=0.1))

    assert client.waiting == 0
    wait_until(lambda: redis.xlen(keys.asks(MODEL)) == 0)
    assert int(redis.get(keys.asks_bytes(MODEL)) or 0) == 0  # type: ignore[arg-type]


def test_expired_asks_of_a_dead_web_process_make_room(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    # given two asks whose deadline passed, of a web process that takes nothing out any more, and taken by a worker
    announce(redis, "w")
    server = AskServer(redis, "w")
    dead = make_client()
    dead.stop()
    for _ in range(2):
        with pytest.raises(DeadlinePassed):
            dead.ask(make_ask(within_s=0.1))
    take_all(server, 2)

    # when another one comes, for which there would be no room, then it waits in the place of the first
    client = make_client(max_waiting=2)
    with pytest.raises(DeadlinePassed):
        client.ask(make_ask(within_s=0.1))
    wait_until(lambda: redis.xlen(keys.asks(MODEL)) == 1)
    assert redis.xpending(keys.asks(MODEL), keys.ASK_GROUP)["pending"] == 1  # type: ignore[index]


def test_asks_within_their_deadline_are_not_thrown_out_by_a_full_lane(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client = make_client(max_waiting=2)
    waiting = [threads.submit(client.ask, make_ask()) for _ in range(2)]
    wait_until(lambda: redis.xlen(keys.asks(MODEL)) == 2)
    for _ in range(5):
        with pytest.raises(LaneFull):
            client.ask(make_ask())

    server = AskServer(redis, "w")
    server.answer([(one, answer_of(one.ask)) for one in take_all(server, 2)])
    for future in waiting:
        future.result(20)


def test_an_answer_after_the_deadline_is_passed_over(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    announce(redis, "w")
    client = make_client()
    server = AskServer(redis, "w")
    server.take([MODEL], 1)
    with pytest.raises(DeadlinePassed):
        client.ask(make_ask(within_s=0.3))

    taken = server.take([MODEL], 1)  # before or after web took it out
    server.answer([(one, answer_of(one.ask)) for one in taken])

    wait_until(lambda: not redis.exists(keys.answers(client.web_id)) and redis.xlen(keys.asks(MODEL)) == 0)
    assert_lane_empty(redis)


# Workers that die


def test_an_ask_of_a_dead_worker_is_answered_by_another(
    redis: Redis, redis_url: str, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    # given a worker that took asks and was killed
    announce(redis, "dead")
    client = make_client()
    waiting = [threads.submit(client.ask, make_ask(f"text {number}")) for number in range(5)]
    take_all(AskServer(redis, "dead"), 5)
    redis.delete(keys.worker("dead"))

    with Worker(redis_url) as worker:
        for future in waiting:
            future.result(20)

        wait_until(lambda: len(worker.answered) == 5)  # noted after the answers are sent
        wait_until(lambda: [c["name"] for c in redis.xinfo_consumers(keys.asks(MODEL), "workers")] == [worker.id.encode()])  # type: ignore[union-attr]
    assert_lane_empty(redis)


def test_an_ask_that_is_given_back_is_another_workers_at_once_and_is_known_by_its_new_place(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "stopping")
    client, stopping, other = make_client(), AskServer(redis, "stopping"), AskServer(redis, "other")
    waiting = threads.submit(client.ask, make_ask("a text"))
    (taken,) = take_all(stopping, 1)

    stopping.give_back([taken])
    stopping.give_back([taken])  # as after a broken connection: nothing more happens

    (again,) = take_all(other, 1)
    assert again.ask == taken.ask
    assert redis.xlen(keys.asks(MODEL)) == 1
    # It is not taken for lost: the client looks for it where it is.
    time.sleep(3 * 0.3)
    assert redis.xlen(keys.asks(MODEL)) == 1
    other.answer([(again, answer_of(again.ask))])
    waiting.result(20)
    assert_lane_empty(redis)


def test_what_was_answered_or_taken_over_cannot_be_given_back(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "stopping")
    client, stopping, other = make_client(), AskServer(redis, "stopping"), AskServer(redis, "other")
    waiting = threads.submit(client.ask, make_ask())
    (taken,) = take_all(stopping, 1)
    (theirs,) = other.take_over([MODEL], lambda _: False)

    stopping.give_back([taken])
    assert redis.xpending(keys.asks(MODEL), "workers")["consumers"] == [{"name": b"other", "pending": 1}]  # type: ignore[index]

    other.answer([(theirs, answer_of(theirs.ask))])
    other.give_back([theirs])
    waiting.result(20)
    assert_lane_empty(redis)


def test_the_asks_of_a_living_worker_are_left_to_it(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    announce(redis, "slow")
    client = make_client()
    slow = AskServer(redis, "slow")
    thread = threading.Thread(target=client.ask, args=(make_ask(),))
    thread.start()
    (taken,) = take_all(slow, 1)

    assert AskServer(redis, "other").take_over([MODEL], PresenceBoard(redis).is_alive) == []

    slow.answer([(taken, answer_of(taken.ask))])
    thread.join()


def test_two_workers_that_find_the_same_dead_one_share_its_asks_without_doubling(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "dead")
    client = make_client(max_waiting=500)
    pool = ThreadPoolExecutor(200)
    waiting = [pool.submit(client.ask, make_ask(f"text {number}")) for number in range(200)]
    take_all(AskServer(redis, "dead"), 200)

    servers = [AskServer(redis, f"w{number}") for number in range(8)]
    start = threading.Barrier(len(servers))

    def sweep(server: AskServer) -> list[TakenAsk]:
        start.wait()
        return server.take_over([MODEL], lambda name: name != "dead") + server.take_over([MODEL], lambda name: name != "dead")

    swept = list(threads.map(sweep, servers))

    entries = [taken.entry for found in swept for taken in found]
    assert len(entries) == len(set(entries)) == 200
    for server, found in zip(servers, swept, strict=True):
        server.answer([(taken, answer_of(taken.ask)) for taken in found])
    for future in waiting:
        future.result(20)
    pool.shutdown()
    assert_lane_empty(redis)


def test_a_worker_thought_dead_that_answers_after_all_does_no_harm(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "stalled")
    client = make_client()
    stalled, other = AskServer(redis, "stalled"), AskServer(redis, "other")
    waiting = threads.submit(client.ask, make_ask())
    (mine,) = take_all(stalled, 1)

    (theirs,) = other.take_over([MODEL], lambda _: False)
    stalled.answer([(mine, answer_of(mine.ask))])
    other.answer([(theirs, answer_of(theirs.ask))])

    waiting.result(20)
    wait_until(lambda: not redis.exists(keys.answers(client.web_id)))
    assert_lane_empty(redis)


def test_asks_lost_between_redis_and_the_worker_are_found_again(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an ask that Redis handed to the worker over a connection that broke before it arrived
    monkeypatch.setattr(server_end, "LOST_IN_READING_MS", 20)
    announce(redis, "w")
    client = make_client()
    server = AskServer(redis, "w")
    waiting = [threads.submit(client.ask, make_ask("held"))]
    (held,) = take_all(server, 1)
    waiting.append(threads.submit(client.ask, make_ask("lost")))
    wait_until(lambda: redis.xlen(keys.asks(MODEL)) == 2)
    redis.xreadgroup("workers", "w", {keys.asks(MODEL): ">"})

    # when the worker sweeps, then it gets that one and not the one it runs
    found: list[TakenAsk] = []
    wait_until(lambda: found.extend(server.take_over([MODEL], lambda _: True)) or bool(found))  # type: ignore[func-returns-value]
    assert [taken.ask.texts for taken in found] == [["lost"]]
    assert server.take_over([MODEL], lambda _: True) == []

    server.answer([(taken, answer_of(taken.ask)) for taken in [held, *found]])
    for future in waiting:
        future.result(20)
    assert_lane_empty(redis)


@pytest.mark.parametrize(
    "entry",
    [
        {"ask": b'{"id": "i"}', "to": "umekomi:answers:x", "size": "11", "until": "9e9"},
        {"ask": b"x", "to": "umekomi:answers:x", "size": "11", "until": "9e9"},
        {"ask": b'{"id": "i", "model": "m", "deadline": 9e9, "texts": ["a"]}', "size": "11"},
        {"ask": b'{"id": "i", "model": "m", "deadline": 9e9, "texts": ["a"]}', "to": "umekomi:answers:x", "size": "eleven"},
        {"another": "field"},
    ],
)
def test_an_unreadable_ask_is_dropped_and_the_next_one_served(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor, entry: dict[str, str | bytes]
) -> None:
    announce(redis, "w")
    server = AskServer(redis, "w")
    redis.xadd(keys.asks(MODEL), entry)  # type: ignore[arg-type]
    if entry.get("size") == "11":
        redis.incrby(keys.asks_bytes(MODEL), 11)
    client = make_client()
    waiting = threads.submit(client.ask, make_ask())

    (taken,) = take_all(server, 1)
    server.answer([(taken, answer_of(taken.ask))])

    waiting.result(20)
    assert_lane_empty(redis)


def test_an_unreadable_answer_does_not_end_the_listener(
    redis: Redis, redis_url: str, make_client: Callable[..., AskClient]
) -> None:
    client = make_client()
    for raw in (b"", b"\xff\xff\xff\xffxx", b"\x02\x00\x00\x00{}", b"\x02\x00\x00\x00[]"):
        redis.rpush(keys.answers(client.web_id), raw)

    with Worker(redis_url):
        client.ask(make_ask())


# Web processes that die


def test_answers_that_nobody_reads_expire(redis: Redis, make_client: Callable[..., AskClient]) -> None:
    server = AskServer(redis, "w")
    server.take([MODEL], 1, block_s=0.01)
    raw = encode_ask(make_ask())
    redis.xadd(keys.asks(MODEL), {"ask": raw, "to": keys.answers("gone"), "size": str(len(raw)), "until": "9e9"})

    server.answer([(taken, answer_of(taken.ask)) for taken in take_all(server, 1)])

    assert 0 < redis.ttl(keys.answers("gone")) <= ANSWERS_EXPIRE_S  # type: ignore[operator]


def test_who_waits_when_the_client_stops_is_told(
    redis: Redis, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client = make_client()
    waiting = threads.submit(client.ask, make_ask())
    wait_until(lambda: redis.xlen(keys.asks(MODEL)) == 1)

    client.stop()

    with pytest.raises(Unavailable, match="stopping"):
        waiting.result(20)


# Redis that is away, forgets, or comes back


def test_redis_away_is_said_and_not_waited_for(make_client: Callable[..., AskClient]) -> None:
    with pytest.raises(RedisAway):
        make_client(f"redis://127.0.0.1:{free_port()}/0").ask(make_ask())


def test_asks_that_redis_forgot_are_sent_again(
    redis: Redis, redis_url: str, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client = make_client()
    waiting = [threads.submit(client.ask, make_ask(f"text {number}")) for number in range(5)]
    wait_until(lambda: client.waiting == 5 and redis.xlen(keys.asks(MODEL)) == 5)
    take_all(AskServer(redis, "w"), 2)
    redis.flushall()

    with Worker(redis_url):
        for number, future in enumerate(waiting):
            assert np.array_equal(future.result(20).vectors, answer_of(make_ask(f"text {number}")).vectors)
    assert_lane_empty(redis)


@pytest.mark.parametrize("append_only", [True, False])
def test_asks_outlive_a_kill_of_redis(
    tmp_path: Path, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor, append_only: bool
) -> None:
    valkey = Valkey(tmp_path, append_only=append_only)
    valkey.start()
    try:
        with connect(valkey.url) as redis:
            announce(redis, "w")
            client = make_client(valkey.url)
            waiting = [threads.submit(client.ask, make_ask(f"text {number}")) for number in range(5)]
            wait_until(lambda: client.waiting == 5 and redis.xlen(keys.asks(MODEL)) == 5)
        with Worker(valkey.url, "another model"):  # its listening connection dies too
            valkey.kill()
            valkey.start()
        with Worker(valkey.url):
            for future in waiting:
                future.result(20)
    finally:
        valkey.kill()


def test_a_worker_goes_on_after_its_stream_was_deleted_under_it(
    redis: Redis, redis_url: str, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    client = make_client()
    server = AskServer(connect(redis_url, timeout_s=BLOCKING_TIMEOUT_S), "w")
    server.take([MODEL], 1, block_s=0.01)
    reader: Future[list[TakenAsk]] = threads.submit(server.take, [MODEL], 1, 5.0)
    wait_until(lambda: int(redis.info("clients")["blocked_clients"]) == 2)  # type: ignore[index]

    redis.delete(keys.asks(MODEL))

    assert reader.result(20) == []
    announce(redis, "w")
    waiting = threads.submit(client.ask, make_ask())
    (taken,) = take_all(server, 1)
    server.answer([(taken, answer_of(taken.ask))])
    waiting.result(20)
    server._redis.close()


def test_a_consumer_deleted_while_it_waits_still_gets_asks(
    redis: Redis, redis_url: str, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    announce(redis, "w")
    client = make_client()
    server = AskServer(connect(redis_url, timeout_s=BLOCKING_TIMEOUT_S), "w")
    server.take([MODEL], 1, block_s=0.01)
    reader: Future[list[TakenAsk]] = threads.submit(server.take, [MODEL], 1, 5.0)
    wait_until(lambda: int(redis.info("clients")["blocked_clients"]) == 2)  # type: ignore[index]

    AskServer(redis, "other").take_over([MODEL], lambda _: False)
    waiting = threads.submit(client.ask, make_ask())
    server.answer([(taken, answer_of(taken.ask)) for taken in reader.result(20)])

    waiting.result(20)
    assert_lane_empty(redis)
    server._redis.close()


def test_an_answer_that_cannot_be_sent_leaves_its_ask_in_the_lane(
    redis: Redis, own_valkey: Valkey, make_client: Callable[..., AskClient], threads: ThreadPoolExecutor
) -> None:
    with connect(own_valkey.url) as own:
        announce(own, "w")
        client = make_client(own_valkey.url)
        waiting = threads.submit(client.ask, make_ask())
        server = AskServer(own, "w")
        taken = take_all(server, 1)
        own_valkey.kill()
        with pytest.raises(RedisError):
            server.answer([(one, EngineFailed("never mind")) for one in taken])
        own_valkey.start()
        own.delete(keys.worker("w"))  # it is killed now

    with Worker(own_valkey.url):
        waiting.result(20)
