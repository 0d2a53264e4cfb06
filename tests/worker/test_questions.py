"""Equal questions share a forward, kept answers are those of the very load that is served, and nobody fails for another."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, Future
from typing import Any, cast

import numpy as np
import pytest

from shared.errors import DeadlinePassed, EngineFailed, Unavailable
from shared.models import ModelConfig, Parameters
from tests.support.engine import EngineDouble, embedded, hashed
from worker.engine import Embedded, EmbedRequest
from worker.questions import Questions
from worker.work import QUESTION_CHARACTERS


def config(query_cache: int = 0) -> ModelConfig:
    return ModelConfig(name="m", backend="fake", parameters=Parameters(model="fake"), query_cache=query_cache)


MODEL = config()


def ask(*texts: str, model: ModelConfig = MODEL, **fields: Any) -> EmbedRequest:
    return EmbedRequest(model=model, lane="interactive", texts=texts, **fields)


class Engine(EngineDouble):
    """The double, whose model may be loaded anew."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: object | None = object()

    def identity(self, model: str) -> Any:
        return self.loaded


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def questions(engine: Engine) -> Questions:
    return Questions(engine.submit, engine.identity)


def vectors(future: Future[Embedded]) -> np.ndarray[Any, Any]:
    return future.result(timeout=5).vectors


def test_equal_questions_in_flight_are_run_once_and_all_answered(engine: Engine, questions: Questions) -> None:
    engine.hold = True
    asked = [questions.submit(ask("a question")) for _ in range(5)]

    engine.release()

    assert len(engine.requests) == 1
    for future in asked:
        assert np.array_equal(vectors(future), hashed(["a question"]))
        assert future.result().tokens.tolist() == [2]


@pytest.mark.parametrize("texts", [7, [7], [None]])
def test_a_malformed_request_is_left_to_the_engine(engine: Engine, questions: Questions, texts: Any) -> None:
    engine.hold = True

    questions.submit(EmbedRequest(model=MODEL, lane="interactive", texts=texts))

    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    "other",
    [
        ask("another"),
        ask("a question", dimensions=2),
        ask("a question", prompt_name="p"),
        ask("a question", input_type="query"),
        ask("a question", truncate="error"),
        ask("a question", "a question"),
        ask("a question", kind="tokenize"),
        ask("a question", model=config()),
        EmbedRequest(model=MODEL, lane="interactive", token_ids=[[1, 2]]),
    ],
)
def test_what_is_not_the_same_question_is_run_for_itself(engine: Engine, questions: Questions, other: EmbedRequest) -> None:
    engine.hold = True
    questions.submit(ask("a question"))

    questions.submit(other)

    assert len(engine.requests) == 2


def test_a_long_text_is_never_shared(engine: Engine, questions: Questions) -> None:
    engine.hold = True
    for _ in range(2):
        questions.submit(ask("x" * (QUESTION_CHARACTERS + 1)))

    assert len(engine.requests) == 2


def test_a_question_that_was_answered_is_run_again_unless_the_model_keeps_answers(engine: Engine, questions: Questions) -> None:
    for _ in range(3):
        vectors(questions.submit(ask("a")))

    assert len(engine.requests) == 3


def test_a_failure_is_everybodys(engine: Engine, questions: Questions) -> None:
    def fail(request: EmbedRequest) -> Embedded:
        raise EngineFailed("it broke")

    engine.hold, engine.answer = True, fail
    asked = [questions.submit(ask("a")) for _ in range(2)]

    engine.release()

    for future in asked:
        assert isinstance(future.exception(timeout=5), EngineFailed)
    engine.answer = embedded
    again = questions.submit(ask("a"))
    engine.release()
    assert np.array_equal(vectors(again), hashed(["a"]))


def test_who_has_more_time_does_not_fail_with_the_first(engine: Engine, questions: Questions) -> None:
    def late(request: EmbedRequest) -> Embedded:
        raise DeadlinePassed("too late")

    engine.hold, engine.answer = True, late
    now = time.time()
    first = questions.submit(ask("a", deadline=now + 1))
    others = [questions.submit(ask("a", deadline=now + seconds)) for seconds in (50, 60)]

    held = engine._held
    engine._held = []
    cast(Future[Embedded], held[0][1]).set_exception(DeadlinePassed("too late"))
    engine.answer = embedded
    engine.release()

    assert isinstance(first.exception(timeout=5), DeadlinePassed)
    assert [request.deadline for request in engine.requests] == [now + 1, now + 60]
    for future in others:
        assert np.array_equal(vectors(future), hashed(["a"]))


def test_one_who_gives_up_takes_nothing_from_the_others(engine: Engine, questions: Questions) -> None:
    engine.hold = True
    first, second = questions.submit(ask("a")), questions.submit(ask("a"))

    first.cancel()
    engine.release()

    assert np.array_equal(vectors(second), hashed(["a"]))
    with pytest.raises(CancelledError):
        first.result(timeout=5)


def test_an_engine_that_stops_tells_everybody(engine: Engine, questions: Questions) -> None:
    engine.hold = True
    asked = [questions.submit(ask("a")) for _ in range(2)]

    engine._held[0][1].cancel()

    for future in asked:
        assert isinstance(future.exception(timeout=5), Unavailable)


def test_the_latest_answers_are_kept_if_the_entry_says_so(engine: Engine, questions: Questions) -> None:
    model = config(query_cache=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        answer = questions.submit(ask(text, model=model)).result(timeout=5)
        assert np.array_equal(answer.vectors, hashed([text]))
        assert answer.tokens.tolist() == [1]

    assert [request.texts[0] for request in engine.requests] == ["a", "b", "c", "b"]


def test_an_answer_of_the_cache_took_no_time(questions: Questions) -> None:
    model = config(query_cache=2)
    assert questions.submit(ask("a", model=model)).result(timeout=5).embed_s > 0

    assert questions.submit(ask("a", model=model)).result(timeout=5).embed_s == 0


def test_the_answers_of_another_load_are_never_given(engine: Engine, questions: Questions) -> None:
    model = config(query_cache=10)
    vectors(questions.submit(ask("a", model=model)))

    engine.loaded = object()
    engine.answer = lambda request: embedded(EmbedRequest(model=model, lane="interactive", texts=["other weights"]))

    assert np.array_equal(vectors(questions.submit(ask("a", model=model))), hashed(["other weights"]))


def test_the_answers_of_another_entry_are_never_given(engine: Engine, questions: Questions) -> None:
    vectors(questions.submit(ask("a", model=config(query_cache=10))))
    vectors(questions.submit(ask("a", model=config(query_cache=10))))

    assert len(engine.requests) == 2


def test_an_answer_of_a_load_that_went_meanwhile_is_not_kept(engine: Engine, questions: Questions) -> None:
    model = config(query_cache=10)
    engine.hold = True
    old = questions.submit(ask("a", model=model))
    engine.loaded = object()
    new = questions.submit(ask("a", model=model))

    engine.release()

    assert len(engine.requests) == 2
    assert vectors(old).any()
    assert vectors(new).any()
    engine.release()
    vectors(questions.submit(ask("a", model=model)))
    assert len(engine.requests) == 2  # the new one was kept, the old one was not


def test_a_failed_row_is_not_kept(engine: Engine, questions: Questions) -> None:
    model = config(query_cache=10)

    def fail(request: EmbedRequest) -> Embedded:
        good = embedded(request)
        wrong = {0: EngineFailed("row")}
        return Embedded(vectors=good.vectors, tokens=good.tokens, truncated=good.truncated, errors=wrong, queue_s=0, embed_s=0)

    engine.answer = fail
    for _ in range(2):
        assert questions.submit(ask("a", model=model)).result(timeout=5).errors

    assert len(engine.requests) == 2
