"""A small batch that nothing else runs beside has more threads, and the same bits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from shared.models import ModelConfig, Parameters
from tests.support.models import SENTENCES
from tests.support.waiting import wait_until
from tests.worker.backends.conftest import Build
from worker.backends import TokenizedText, onnxruntime
from worker.backends.onnxruntime import OnnxBackend

pytestmark = pytest.mark.usefixtures("frozen")

CONFIG = ModelConfig(name="m", parameters=Parameters(model="m"))
Open = Callable[..., OnnxBackend]


class Noted:
    """A session that tells of its runs, which may be held."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs = 0
        self.is_in, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def run(self, *arguments: Any) -> Any:
        self.runs += 1
        self.is_in.set()
        assert self.gate.wait(20)
        return self._session.run(*arguments)


@pytest.fixture
def open_one(exported: Build) -> Iterator[Open]:
    opened: list[OnnxBackend] = []

    def load(layout: str = "bert", lone_threads: int = 2) -> OnnxBackend:
        opened.append(OnnxBackend(CONFIG, exported(layout), threads=1, lone_threads=lone_threads))
        return opened[-1]

    yield load
    for backend in opened:
        backend.close()


def note(backend: OnnxBackend) -> tuple[Noted, Noted]:
    """Its usual session, and the one for a batch that is alone."""
    backend._session, backend._lone = Noted(backend._session), Noted(backend._lone)
    return backend._session, backend._lone


@pytest.mark.parametrize("layout", ["bert", "modernbert", "mpnet"])
def test_its_vectors_are_the_same_to_the_bit(open_one: Open, layout: str) -> None:
    narrow, wide = open_one(layout, lone_threads=0), open_one(layout)
    rows = narrow.tokenize([*SENTENCES, "a longer text, " * 20])
    _, lone = note(wide)

    for batch in ([row] for row in rows):
        np.testing.assert_array_equal(wide.embed(batch), narrow.embed(batch))
    np.testing.assert_array_equal(wide.embed(rows[:4]), narrow.embed(rows[:4]))

    assert lone.runs == len(rows) + 1


def test_only_a_small_batch_that_is_alone_gets_them(open_one: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_one()
    usual, lone = note(backend)
    rows = backend.tokenize(["a text"] * 2)
    usual.gate.clear()
    monkeypatch.setattr(onnxruntime, "LONE_TOKENS", rows[0].ids.size)
    large = threading.Thread(target=backend.embed, args=(rows,))
    large.start()
    assert usual.is_in.wait(20)

    beside = threading.Thread(target=backend.embed, args=(rows[:1],))
    beside.start()
    wait_until(lambda: usual.runs == 2)
    usual.gate.set()
    large.join()
    beside.join()
    assert (usual.runs, lone.runs) == (2, 0)

    backend.embed(rows[:1])
    assert (usual.runs, lone.runs) == (2, 1)


def test_a_batch_that_failed_is_no_longer_there(open_one: Open) -> None:
    backend = open_one()
    _, lone = note(backend)
    with pytest.raises(Exception, match="out of"):
        backend.embed([TokenizedText(np.array([10**6], np.int32), truncated=False)])
    lone.runs = 0
    backend.embed(backend.tokenize(["a text"]))
    assert lone.runs == 1


def test_large_weights_are_not_kept_twice(open_one: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "LONE_WEIGHTS_BYTES", 1)
    assert open_one()._lone is None
