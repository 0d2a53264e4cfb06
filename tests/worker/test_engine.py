"""The engine with fake models that a test can hold, and once with the real all-MiniLM-L6-v2."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from shared.errors import (
    ContextLengthExceeded,
    DeadlinePassed,
    EngineFailed,
    InvalidParameter,
    ModelNotFound,
    ModelNotReady,
    Unavailable,
)
from shared.models import BUNDLED, BatchLimits, ModelConfig, ModelRegistry, ModelSource, Parameters
from shared.settings import Settings
from tests.support.waiting import wait_until
from worker.backends import Backend, LoadOptions, TokenizedText, load_backend
from worker.backends.fake import FakeBackend
from worker.engine import Embedded, EmbedRequest, Engine
from worker.work import Withdrawn

PATIENCE_S = 20.0


class HeldBackend(FakeBackend):
    """A fake whose loads, slices and batches are noted, and go on only while their gates are open."""

    def __init__(self, held: Held, config: ModelConfig, source: ModelSource, options: LoadOptions) -> None:
        self._held = held
        held.pass_gate("load", config.name)
        super().__init__(config, source, options)

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        self._held.pass_gate("tokenize", list(texts))
        return super().tokenize(texts, prompt)

    def embed(self, rows: Sequence[TokenizedText]) -> np.ndarray:
        self._held.pass_gate("embed", rows)
        return super().embed(rows)


class Held:
    """The gates, all open at first, and what came to them."""

    def __init__(self) -> None:
        self.gates = {name: threading.Event() for name in ("load", "tokenize", "embed")}
        self.came: dict[str, SimpleQueue[Any]] = {name: SimpleQueue() for name in self.gates}
        for gate in self.gates.values():
            gate.set()

    def load(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
        return HeldBackend(self, config, source, options)

    def pass_gate(self, name: str, what: Any) -> None:
        self.came[name].put(what)
        assert self.gates[name].wait(PATIENCE_S)

    def next(self, name: str) -> Any:
        return self.came[name].get(timeout=PATIENCE_S)

    def all(self, name: str) -> list[Any]:
        return [self.came[name].get() for _ in range(self.came[name].qsize())]


def fake(spelled: str = "fake", name: str = "m", **entry: Any) -> ModelConfig:
    return ModelConfig(name=name, backend="fake", parameters=Parameters(model=spelled), **entry)


def ask(*texts: str, model: ModelConfig | None = None, **fields: Any) -> EmbedRequest:
    return EmbedRequest(model=model or fake(), lane="interactive", texts=texts, **fields)


def shard(*texts: str, model: ModelConfig | None = None, **fields: Any) -> EmbedRequest:
    return EmbedRequest(model=model or fake(), lane="bulk", texts=texts, **fields)


def result(future: Future[Embedded]) -> Embedded:
    return future.result(timeout=PATIENCE_S)


def error(future: Future[Embedded]) -> BaseException | None:
    return future.exception(timeout=PATIENCE_S)


Start = Callable[..., Engine]


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def deaths() -> SimpleQueue[str]:
    return SimpleQueue()


@pytest.fixture
def start(held: Held, deaths: SimpleQueue[str]) -> Iterator[Start]:
    """Start an engine with one stream on a CPU that serves the given models."""
    started: list[Engine] = []

    def begin(*models: ModelConfig, load: Any = held.load, **settings: Any) -> Engine:
        models = models or (fake(),)
        chosen = Settings(**{"device": "cpu", "streams": 1, "max_batch_tokens": 64} | settings)
        registry = ModelRegistry({model.name: model for model in models})
        engine = Engine(chosen, registry, load=load, on_death=lambda: deaths.put("died"))
        engine.start()
        started.append(engine)
        return engine

    yield begin
    for gate in held.gates.values():
        gate.set()
    for engine in started:
        engine.stop()
    assert deaths.empty() or deaths.get() == "expected"


@pytest.fixture
def reference() -> FakeBackend:
    """The fake without an engine around it."""
    return FakeBackend(fake(), ModelSource(), LoadOptions(device="cpu", threads=1))


# Answers


def test_vectors_come_in_the_order_of_their_texts(start: Start, reference: FakeBackend) -> None:
    texts = [f"text {number} " + "word " * (number % 17) for number in range(500)]
    engine = start(streams=3)
    requests = [(shard if number % 3 else ask)(*texts[number * 50 : number * 50 + 50]) for number in range(10)]

    futures = [engine.submit(request) for request in requests]

    for request, future in zip(requests, futures, strict=True):
        embedded = result(future)
        rows = reference.tokenize(request.texts)
        np.testing.assert_array_equal(embedded.vectors, reference.embed(rows))
        assert embedded.tokens.tolist() == [len(row) for row in rows]
        assert not embedded.truncated.any()
        assert embedded.errors == {}
        assert embedded.queue_s >= 0
        assert embedded.embed_s >= 0


def test_a_request_without_texts_is_answered(start: Start) -> None:
    assert result(start().submit(ask())).vectors.shape == (0, 8)


def test_a_long_text_is_cut_and_said_so(start: Start) -> None:
    embedded = result(start(fake("fake?max_tokens=5")).submit(ask("a b c", "a b c d")))

    assert embedded.truncated.tolist() == [False, True]
    assert embedded.tokens.tolist() == [5, 5]


@pytest.mark.parametrize(("entry", "request_"), [({"truncate": "error"}, {}), ({}, {"truncate": "error"})])
def test_a_long_text_is_its_own_error_where_that_is_wanted(start: Start, entry: dict[str, Any], request_: dict[str, Any]) -> None:
    model = fake("fake?max_tokens=5", **entry)

    embedded = result(start(model).submit(ask("a b c d", "a b", model=model, **request_)))

    assert isinstance(embedded.errors[0], ContextLengthExceeded)
    assert embedded.errors[0].param == "input"
    assert "5 tokens" in embedded.errors[0].message
    assert not embedded.vectors[0].any()
    assert embedded.vectors[1].any()


def test_a_request_may_allow_what_its_model_refuses(start: Start) -> None:
    model = fake("fake?max_tokens=5", truncate="error")

    assert result(start(model).submit(ask("a b c d", model=model, truncate="end"))).errors == {}


def test_half_a_character_is_the_error_of_its_text_alone(start: Start) -> None:
    embedded = result(start().submit(shard("fine", "\ud83d", "fine too")))

    assert list(embedded.errors) == [1]
    assert isinstance(embedded.errors[1], InvalidParameter)
    assert embedded.vectors.any(axis=1).tolist() == [True, False, True]


def test_a_request_whose_every_text_is_refused_is_answered(start: Start) -> None:
    assert list(result(start().submit(ask("\ud83d"))).errors) == [0]


# What may be asked


def test_fewer_dimensions_are_cut_and_brought_back_to_unit_length(start: Start) -> None:
    engine = start()
    whole, cut = (result(engine.submit(ask("a", dimensions=size))).vectors[0] for size in (None, 3))

    assert cut.shape == (3,)
    np.testing.assert_allclose(cut, whole[:3] / np.linalg.norm(whole[:3]), rtol=1e-6)
    np.testing.assert_array_equal(result(engine.submit(ask("a", dimensions=8))).vectors[0], whole)


def test_a_models_entry_may_cut_too_and_a_request_may_have_more(start: Start) -> None:
    model = fake("fake?dimensions=8", dimensions=4)
    engine = start(model)

    assert result(engine.submit(ask("a", model=model))).vectors.shape == (1, 4)
    assert result(engine.submit(ask("a", model=model, dimensions=6))).vectors.shape == (1, 6)


@pytest.mark.parametrize("dimensions", [0, -1, 9])
def test_impossible_dimensions_are_refused_with_the_native_size(start: Start, dimensions: int) -> None:
    refused = error(start().submit(ask("a", dimensions=dimensions)))

    assert isinstance(refused, InvalidParameter)
    assert refused.param == "dimensions"
    assert "from 1 to 8" in refused.message


@pytest.mark.parametrize(
    ("asked", "prefix"),
    [
        ({}, "d: "),
        ({"prompt_name": "query"}, "q: "),
        ({"prompt_name": "empty"}, ""),
        ({"input_type": "query"}, "q: "),
        ({"input_type": "document"}, "p: "),
        ({"input_type": "query", "prompt_name": "passage"}, "p: "),
    ],
)
def test_the_prompt_is_the_named_one_or_that_of_the_input_type(
    start: Start, reference: FakeBackend, asked: dict[str, str], prefix: str
) -> None:
    prompts = {"query": "q: ", "document": "", "passage": "p: ", "empty": "", "default": "d: "}
    model = fake(prompts=prompts, default_prompt_name="default")

    embedded = result(start(model).submit(ask("text", model=model, **asked)))

    np.testing.assert_array_equal(embedded.vectors, reference.embed(reference.tokenize([prefix + "text"])))


def test_an_input_type_without_a_prompt_means_none(start: Start, reference: FakeBackend) -> None:
    model = fake(prompts={"default": "d: "}, default_prompt_name="default")

    embedded = result(start(model).submit(ask("text", model=model, input_type="query")))

    np.testing.assert_array_equal(embedded.vectors, reference.embed(reference.tokenize(["text"])))


@pytest.mark.parametrize(
    ("asked", "param"),
    [({"prompt_name": "no"}, "prompt_name"), ({"input_type": "no"}, "input_type"), ({"truncate": "no"}, "truncate")],
)
def test_unknown_names_are_refused_by_parameter(start: Start, asked: dict[str, str], param: str) -> None:
    model = fake(prompts={"query": "q: ", "other": ""})
    refused = error(start(model).submit(ask("a", model=model, **asked)))

    assert isinstance(refused, InvalidParameter)
    assert refused.param == param
    if param == "prompt_name":
        assert "other, query" in refused.message


def ids_request(*token_ids: Sequence[int], model: ModelConfig) -> EmbedRequest:
    return EmbedRequest(model=model, lane="interactive", token_ids=token_ids)


def test_token_ids_are_refused_with_the_way_out_unless_the_model_takes_them(start: Start) -> None:
    refused = error(start().submit(ids_request([1, 2], model=fake())))

    assert isinstance(refused, InvalidParameter)
    assert refused.param == "input"
    assert "check_embedding_ctx_length=False" in refused.message


def test_token_ids_of_the_model_are_wrapped(start: Start, reference: FakeBackend) -> None:
    model = fake(token_ids="model")
    ids = [reference.tokenize([text])[0].ids[1:-1].tolist() for text in ("a b", "c")]

    embedded = result(start(model).submit(ids_request(*ids, model=model)))

    np.testing.assert_array_equal(embedded.vectors, reference.embed(reference.tokenize(["a b", "c"])))
    assert embedded.tokens.tolist() == [4, 3]


@pytest.mark.parametrize("wrong", [-1, FakeBackend.vocabulary])
def test_token_ids_out_of_range_are_refused(start: Start, wrong: int) -> None:
    model = fake(token_ids="model")
    refused = error(start(model).submit(ids_request([5], [5, wrong], model=model)))

    assert isinstance(refused, InvalidParameter)
    assert refused.param == "input"
    assert str(wrong) in refused.message


# Which goes first


def words(rows: Sequence[TokenizedText]) -> set[int]:
    return {int(token) for row in rows for token in row.ids[1:-1]}


def test_an_interactive_request_overtakes_a_bulk_request(start: Start, held: Held, reference: FakeBackend) -> None:
    engine = start()
    held.gates["embed"].clear()
    bulk = engine.submit(shard(*["bulk bulk bulk"] * 100))
    first = held.next("embed")
    question, another = engine.submit(ask("question")), engine.submit(ask("?"))
    while held.next("tokenize") != ["?"]:
        pass  # the question was tokenized before it, so it waits in the batcher

    held.gates["embed"].set()
    for future in (question, another, bulk):
        result(future)

    ran = [words(first), *map(words, held.all("embed"))]
    asked = words(reference.tokenize(["question"]))
    assert ran[0].isdisjoint(asked)
    assert asked <= ran[1]
    assert all(asked.isdisjoint(batch) for batch in ran[2:])
    assert not any(batch & asked and batch & ran[0] for batch in ran)  # never mixed


def test_a_question_is_tokenized_before_the_rest_of_a_bulk_request(start: Start, held: Held) -> None:
    engine = start()
    held.gates["tokenize"].clear()
    bulk = engine.submit(shard(*[f"bulk {number}" for number in range(1000)]))
    assert held.next("tokenize")[0] == "bulk 0"
    question = engine.submit(ask("question"))

    held.gates["tokenize"].set()
    result(question)
    result(bulk)

    assert held.next("tokenize") == ["question"]


def test_asks_can_be_withdrawn_until_the_device_begins_them(start: Start, held: Held) -> None:
    engine = start(fake(), fake(name="other"))
    held.gates["embed"].clear()
    begun = engine.submit(ask("begun"))
    held.next("embed")
    bulk, other = engine.submit(shard("of a job")), engine.submit(ask("of another model", model=fake(name="other")))
    waiting = [engine.submit(ask("one")), engine.submit(ask(*["many"] * 1000))]

    engine.withdraw({"m"})

    assert [type(error(future)) for future in waiting] == [Withdrawn, Withdrawn]
    held.gates["embed"].set()
    for future in (begun, bulk, other):
        assert result(future).vectors.any()


def test_a_short_ask_overtakes_a_long_one_but_not_for_ever(start: Start, held: Held) -> None:
    engine = start()
    held.gates["tokenize"].clear()
    deadline = time.time() + 1000
    blocker = engine.submit(ask("blocker", "of several texts", deadline=deadline))  # no question: the tokenizer reads it
    held.next("tokenize")
    others = [
        engine.submit(ask("long " * 6_000, deadline=deadline)),
        engine.submit(ask("short", deadline=deadline)),
        engine.submit(ask("much later", deadline=deadline + 900)),
    ]

    held.gates["tokenize"].set()
    for future in [blocker, *others]:
        result(future)

    assert [texts[0][:5] for texts in held.all("tokenize")] == ["short", "long ", "much "]


def test_a_models_own_batch_limit_is_kept(start: Start, held: Held) -> None:
    model = fake(batch=BatchLimits(max_tokens=9))

    result(start(model).submit(shard(*["one"] * 7, model=model)))

    assert sorted(len(rows) for rows in held.all("embed")) == [1, 3, 3]


# Faults


@pytest.mark.parametrize("kind", ["raise", "nan"])
def test_a_row_that_fails_fails_alone(start: Start, kind: str) -> None:
    model = fake(f"fake?poison={kind}:poison")

    embedded = result(start(model).submit(shard("one", "poison", "two", model=model)))

    assert list(embedded.errors) == [1]
    assert isinstance(embedded.errors[1], EngineFailed)
    assert embedded.vectors.any(axis=1).tolist() == [True, False, True]
    assert np.isfinite(embedded.vectors).all()


def test_a_batch_that_does_not_fit_is_halved_and_that_is_remembered(start: Start, held: Held) -> None:
    model = fake("fake?out_of_memory_above=4")
    engine = start(model)

    assert result(engine.submit(shard(*["one"] * 16, model=model))).errors == {}
    assert [len(rows) for rows in held.all("embed")] == [16, 8, 4, 4, 8, 4, 4]
    assert result(engine.submit(shard(*["one"] * 8, model=model))).errors == {}
    assert [len(rows) for rows in held.all("embed")] == [4, 4]


def test_a_row_that_does_not_fit_alone_is_its_own_error(start: Start) -> None:
    model = fake("fake?out_of_memory_above=0")

    embedded = result(start(model).submit(shard("one", "two", model=model)))

    assert [type(found) for found in embedded.errors.values()] == [EngineFailed] * 2


def test_what_goes_wrong_while_a_request_is_read_is_its_own_error(start: Start) -> None:
    class Broken(FakeBackend):
        def wrap(self, token_ids: Sequence[int]) -> TokenizedText:
            raise RuntimeError("broken")

    model = fake(token_ids="model")
    engine = start(model, load=Broken)

    assert isinstance(error(engine.submit(ids_request([1], model=model))), EngineFailed)
    assert list(result(engine.submit(ask("a", model=model))).errors) == [0]


def test_a_malformed_request_is_its_own_error(start: Start) -> None:
    engine = start()

    assert isinstance(error(engine.submit(ask(7))), InvalidParameter)  # type: ignore[arg-type]
    assert isinstance(error(engine.submit(ids_request(7, model=fake()))), InvalidParameter)  # type: ignore[arg-type]
    result(engine.submit(ask("fine")))


def test_a_thread_that_dies_takes_the_process_down(start: Start, deaths: SimpleQueue[str]) -> None:
    class Dying(FakeBackend):
        def embed(self, rows: Sequence[TokenizedText]) -> np.ndarray:
            raise SystemExit("not an Exception")

    engine = start(load=Dying)
    engine.submit(ask("a"))

    assert deaths.get(timeout=PATIENCE_S) == "died"


# Models that are not there


def test_the_first_request_waits_for_its_model(start: Start, held: Held) -> None:
    held.gates["load"].clear()
    model = fake(preload=False)
    engine = start(model)
    assert engine.presence()["m"].state == "available"

    waiting = [engine.submit(ask("a", model=model)), engine.submit(shard("b", model=model))]
    held.next("load")
    assert engine.presence()["m"].state == "loading"
    held.gates["load"].set()

    for future in waiting:
        assert result(future).vectors.any()
    assert engine.presence()["m"].state == "ready"


def test_other_models_go_on_while_one_loads(start: Start, held: Held) -> None:
    slow, quick = fake(name="slow", preload=False), fake(name="quick")
    engine = start(quick, slow)
    result(engine.submit(ask("a", model=quick)))
    held.all("load")
    held.gates["load"].clear()
    waiting = engine.submit(ask("b " * 2_000, model=slow))
    assert held.next("load") == "slow"

    assert result(engine.submit(ask("c", model=quick))).vectors.any()
    assert not waiting.done()
    assert not engine.is_stuck(0.0)


def test_a_failed_load_is_the_error_of_its_requests_with_the_reason(start: Start) -> None:
    model = fake("fake?fails_to_load=no weights", preload=False)
    engine = start(model)

    for request in (ask("a", model=model), shard("b", model=model)):
        refused = error(engine.submit(request))
        assert isinstance(refused, ModelNotReady)
        assert "no weights" in refused.message
    assert engine.presence()["m"].reason == "OSError: no weights"


def test_a_deadline_passes_while_the_model_loads(start: Start, held: Held) -> None:
    held.gates["load"].clear()
    engine = start()

    late = engine.submit(ask("a", deadline=time.time() + 0.05))

    assert isinstance(error(late), DeadlinePassed)
    assert not held.gates["load"].is_set()


def test_a_request_whose_deadline_passed_is_not_run(start: Start, held: Held) -> None:
    engine = start()
    held.gates["embed"].clear()
    running = engine.submit(ask("a"))
    held.next("embed")
    late = engine.submit(ask("b", deadline=time.time() + 0.02))
    long_ago = engine.submit(ask("c", deadline=1.0))
    assert isinstance(error(long_ago), DeadlinePassed)
    time.sleep(0.03)  # a deadline is a time: there is no event to wait for

    held.gates["embed"].set()

    assert isinstance(error(late), DeadlinePassed)
    result(running)
    assert held.all("embed") == []


def test_a_question_that_nobody_is_ahead_of_is_tokenized_by_whoever_brings_it(start: Start, held: Held) -> None:
    engine = start()
    result(engine.submit(ask("the model is there")))
    held.all("tokenize")
    readers: list[str] = []
    tokenize = FakeBackend.tokenize

    def told(self: FakeBackend, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        readers.append(threading.current_thread().name)
        return tokenize(self, texts, prompt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeBackend, "tokenize", told)
        result(engine.submit(ask("a question")))
        result(engine.submit(ask("several", "texts")))
        held.gates["tokenize"].clear()
        reading = engine.submit(ask("another", "two"))
        assert [held.next("tokenize") for _ in range(3)][-1] == ["another", "two"]
        waiting = engine.submit(ask("a question behind them"))
        held.gates["tokenize"].set()
        result(reading)
        result(waiting)

    assert readers == [threading.current_thread().name, "tokenizer", "tokenizer", "tokenizer"]


def test_what_is_brought_together_is_one_batch(start: Start, held: Held) -> None:
    engine = start()
    result(engine.submit(ask("the model is there")))
    held.all("embed")

    with engine.together():
        futures = [engine.submit(ask(text)) for text in ("a", "b", "c")]
        assert not any(future.done() for future in futures)

    assert all(result(future).tokens.tolist() == [3] for future in futures)
    assert [len(rows) for rows in held.all("embed")] == [3]


def test_rows_that_one_stream_leaves_are_another_ones_at_once(start: Start, held: Held) -> None:
    engine = start(streams=2, max_batch_tokens=4)
    result(engine.submit(ask("the model is there")))
    held.all("embed")
    held.gates["embed"].clear()

    future = engine.submit(shard("a", "b", "c"))

    both = held.next("embed"), held.next("embed")
    held.gates["embed"].set()
    assert [len(rows) for rows in both] == [1, 1]
    assert result(future).errors == {}


# Cancelling and stopping


def test_cancelling_drops_what_is_in_no_batch_yet(start: Start, held: Held) -> None:
    engine = start()
    held.gates["embed"].clear()
    cancelled = engine.submit(shard(*["word word word"] * 1000))
    held.next("embed")

    assert cancelled.cancel()
    assert engine.waiting_tokens()["bulk"] == 0
    held.gates["embed"].set()

    result(engine.submit(ask("after")))
    with pytest.raises(CancelledError):
        cancelled.result(0)
    assert len(held.all("embed")) == 1
    assert not engine.is_stuck(0.0)


def test_stopping_answers_whoever_waits(start: Start, held: Held) -> None:
    held.gates["load"].clear()
    parked_model, ready = fake(name="parked"), fake(name="ready")
    engine = start(parked_model, ready)
    parked = engine.submit(ask("a", model=parked_model))
    held.next("load")

    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    try:
        assert isinstance(error(parked), Unavailable)
        assert isinstance(error(engine.submit(ask("b", model=ready))), Unavailable)
    finally:
        held.gates["load"].set()
        stopper.join(PATIENCE_S)


def test_a_batch_that_runs_when_the_engine_stops_is_ended(start: Start, held: Held) -> None:
    engine = start()
    held.gates["embed"].clear()
    running, waiting = engine.submit(ask("a")), engine.submit(shard("b b b b b b b b b b b b b b b b"))
    held.next("embed")

    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    held.gates["embed"].set()
    stopper.join(PATIENCE_S)

    assert result(running).vectors.any()
    assert isinstance(error(waiting), Unavailable) or result(waiting)


# What others look at


def test_presence_says_the_speed_of_bulk_batches(start: Start) -> None:
    engine = start()
    result(engine.submit(ask("a")))
    assert engine.presence()["m"].tokens_per_s is None

    result(engine.submit(shard(*["word"] * 50)))

    assert (engine.presence()["m"].tokens_per_s or 0) > 0


def test_waiting_tokens_are_counted_by_lane(start: Start, held: Held) -> None:
    engine = start()
    held.gates["tokenize"].clear()
    futures = [engine.submit(shard(*["word " * 10] * 30))]
    held.next("tokenize")
    futures.append(engine.submit(ask("word")))

    assert engine.waiting_tokens()["bulk"] > 300
    assert 0 < engine.waiting_tokens()["interactive"] < 10

    held.gates["tokenize"].set()
    for future in futures:
        result(future)
    assert engine.waiting_tokens() == {"interactive": 0, "bulk": 0}


def test_an_engine_is_stuck_when_work_waits_and_no_batch_ends(start: Start, held: Held) -> None:
    engine = start()
    assert not engine.is_stuck(0.0)
    held.gates["embed"].clear()
    future = engine.submit(ask("a"))
    held.next("embed")

    assert engine.is_stuck(0.0)
    assert not engine.is_stuck(PATIENCE_S)
    held.gates["embed"].set()
    result(future)
    assert not engine.is_stuck(0.0)


def test_the_device_is_the_one_of_the_settings(start: Start) -> None:
    assert start().device == "cpu"


# The real model


def test_the_real_model_gives_encodes_vectors_in_both_lanes_at_once(start: Start) -> None:
    from sentence_transformers import SentenceTransformer

    from shared.models import find_source
    from tests.support.models import SENTENCES

    rng = np.random.default_rng(3)
    vocabulary = " ".join(SENTENCES).split()
    odd = ["a", "  \u3000 ", "👩‍👩‍👧 🇯🇵", "夕飯はお肉です。" * 60, "long " * 3000, "\x00", "Ünï"]
    texts = [*odd, *(" ".join(rng.choice(vocabulary, size)) for size in rng.integers(1, 60, 40))]
    folder = find_source(BUNDLED, Path()).directory
    expected = SentenceTransformer(str(folder)).encode(texts, batch_size=1, show_progress_bar=False)
    engine = start(BUNDLED, load=load_backend, streams=2, max_batch_tokens=512)

    futures = []
    for number in range(6):
        chosen = rng.permutation(len(texts))[: 20 if number % 2 else len(texts)]
        lane = shard if number % 2 else ask
        futures.append((chosen, engine.submit(lane(*[texts[index] for index in chosen], model=BUNDLED))))

    for chosen, future in futures:
        embedded = future.result(timeout=100)
        assert embedded.errors == {}
        np.testing.assert_allclose(embedded.vectors, expected[chosen], atol=2e-6)
        assert embedded.truncated.sum() == sum(int(index) in (3, 4) for index in chosen)


def test_who_waits_for_a_model_gets_it_before_it_goes_again(start: Start, held: Held) -> None:
    held.gates["load"].clear()
    a, b = fake(name="a", preload=False, ttl=0), fake(name="b", preload=False, ttl=0)
    engine = start(a, b, max_active_backends=1)
    futures = [engine.submit(ask("x", model=config)) for config in (a, b, a, b)]
    held.gates["load"].set()

    for future in futures:
        assert len(result(future).vectors) == 1


def test_a_replaced_registry_answers_what_is_in_the_engine_and_nothing_after_it(start: Start, held: Held) -> None:
    held.gates["load"].clear()
    waits, gone = fake(name="waits", preload=False), fake(name="gone")
    engine = start(waits, gone)
    held.next("load")
    first = engine.submit(ask("x", model=gone))
    second = engine.submit(ask("x", model=waits))
    wait_until(lambda: engine.presence()["waits"].state == "loading")

    engine.replace_registry(ModelRegistry({"new": fake(name="new")}))
    held.gates["load"].set()

    assert len(result(first).vectors) == len(result(second).vectors) == 1
    assert isinstance(error(engine.submit(ask("x", model=gone))), ModelNotFound)
    assert len(result(engine.submit(ask("x", model=fake(name="new")))).vectors) == 1
    assert set(engine.presence()) == {"new"}


def test_a_changed_model_gives_no_batch_of_old_and_new(start: Start, held: Held) -> None:
    old, new = fake("fake?dimensions=4"), fake("fake?dimensions=6")
    engine = start(old)
    held.gates["embed"].clear()
    before = [engine.submit(shard("x", "y", model=old)) for _ in range(3)]
    held.next("embed")

    engine.replace_registry(ModelRegistry({"m": new}))
    after = engine.submit(shard("x", model=new))
    held.gates["embed"].set()

    assert [result(future).vectors.shape for future in before] == [(2, 4)] * 3
    assert result(after).vectors.shape == (1, 6)


def test_the_longest_batch_is_told(start: Start, held: Held) -> None:
    engine = start(fake())
    held.gates["embed"].clear()
    future = engine.submit(ask("x"))
    held.next("embed")

    model, seconds = engine.longest_batch() or ("", -1.0)
    assert model == "m"
    assert seconds >= 0
    held.gates["embed"].set()
    result(future)
    wait_until(lambda: engine.longest_batch() is None)
