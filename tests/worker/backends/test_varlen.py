"""Torch without padding in the layers: encode's vectors, whatever the batch. On a CPU with an attention for tests only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from structlog.testing import capture_logs

from shared.models import ModelConfig, ModelSource, Parameters
from tests.support.models import SENTENCES
from tests.worker.backends.conftest import Build
from worker.backends import DeviceBroken, LoadOptions, varlen
from worker.backends.sentence_transformers import SentenceTransformersBackend

pytestmark = pytest.mark.usefixtures("frozen")

TEXTS = (*SENTENCES[:5], "a", "長い文章です。" * 50, "long text " * 60)


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "is_usable", lambda device, dtype: True)


@pytest.fixture
def load(build: Build) -> Iterator[Any]:
    loaded = []

    def of(layout: str, **options: Any) -> SentenceTransformersBackend:
        config = ModelConfig(name=layout, parameters=Parameters(model=str(build(layout))))
        source = ModelSource(directory=build(layout))
        loaded.append(SentenceTransformersBackend(config, source, LoadOptions(device="cpu", threads=1, **options)))
        return loaded[-1]

    yield of
    for backend in loaded:
        backend.close()


def shapes_in(backend: SentenceTransformersBackend) -> list[tuple[int, ...]]:
    """Of what goes through the first layer from now on."""
    seen: list[tuple[int, ...]] = []
    network = backend.parts().model[0].auto_model
    network.encoder.layer[0].register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    return seen


@pytest.mark.parametrize("layout", ["bert", "bert-without-prompt", "paraphrase-multilingual", "e5", "xlm-r-slow"])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_the_layers_get_the_texts_tokens_and_the_vectors_are_encodes(load: Any, build: Build, layout: str, prompt: str) -> None:
    backend = load(layout)
    seen = shapes_in(backend)
    rows = backend.tokenize(TEXTS, prompt)
    reference = SentenceTransformer(str(build(layout)), device="cpu")
    expected = np.concatenate([reference.encode([text], prompt=prompt, show_progress_bar=False) for text in TEXTS])

    np.testing.assert_allclose(backend.embed(rows), expected, atol=1e-5 * max(1.0, np.abs(expected).max()))
    np.testing.assert_allclose(backend.embed(rows[::-1][:3]), expected[::-1][:3], atol=1e-5 * max(1.0, np.abs(expected).max()))

    assert [shape[:2] for shape in seen] == [(1, sum(map(len, rows))), (1, sum(map(len, rows[::-1][:3])))]


@pytest.mark.parametrize("layout", ["mpnet", "modernbert", "qwen"])
def test_a_network_of_another_kind_keeps_its_padding(load: Any, build: Build, layout: str) -> None:
    backend = load(layout)
    expected = SentenceTransformer(str(build(layout)), device="cpu").encode(list(SENTENCES[:4]))

    np.testing.assert_allclose(backend.embed(backend.tokenize(SENTENCES[:4])), expected, atol=1e-5)


def test_a_model_without_a_network_of_its_own_keeps_its_padding(load: Any, build: Build, tmp_path: Path) -> None:
    inner = list(SentenceTransformer(str(build("bert")), device="cpu"))
    router = Router.for_query_document(query_modules=inner, document_modules=inner, default_route="document")
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "router"))
    config = ModelConfig(name="r", parameters=Parameters(model=str(tmp_path / "router")))
    source = ModelSource(directory=tmp_path / "router")
    backend = SentenceTransformersBackend(config, source, LoadOptions(device="cpu", threads=1))
    expected = SentenceTransformer(str(tmp_path / "router"), device="cpu").encode(list(SENTENCES[:4]))

    np.testing.assert_allclose(backend.embed(backend.tokenize(SENTENCES[:4])), expected, atol=1e-5)
    backend.close()


def test_it_can_be_left_out(load: Any) -> None:
    backend = load("bert", varlen=False)
    seen = shapes_in(backend)
    rows = backend.tokenize(TEXTS)

    backend.embed(rows)

    assert seen[0][:2] == (len(rows), max(map(len, rows)))


def test_threads_do_not_take_each_others_texts(load: Any) -> None:
    backend = load("bert")
    rows = backend.tokenize(TEXTS)
    alone = [backend.embed([row])[0] for row in rows]
    both_in = threading.Barrier(2, timeout=20)
    network = backend.parts().model[0].auto_model

    def wait(*_: Any) -> None:
        both_in.wait()

    network.encoder.layer[0].register_forward_pre_hook(wait)
    found: dict[int, Any] = {}

    def run(part: int) -> None:
        found[part] = backend.embed(rows[part::2])

    threads = [threading.Thread(target=run, args=(part,)) for part in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for part in (0, 1):
        np.testing.assert_allclose(found[part], alone[part::2], atol=1e-5)


def _wrong(*given: Any, **named: Any) -> tuple[torch.Tensor, None]:
    found, _ = _right(*given, **named)
    return (found if varlen._current.places is None else found.roll(1, dims=1)), None


def _failing(*given: Any, **named: Any) -> tuple[torch.Tensor, None]:
    if varlen._current.places is not None:
        raise RuntimeError("no kernel for this card")
    return _right(*given, **named)


_right = varlen._attention


@pytest.mark.parametrize(("attention", "reason"), [(_wrong, "agreement"), (_failing, "no kernel for this card")])
def test_where_it_says_something_else_the_padding_stays_with_one_warning(
    load: Any, monkeypatch: pytest.MonkeyPatch, attention: Any, reason: str
) -> None:
    monkeypatch.setattr(varlen, "_attention", attention)
    with capture_logs() as logs:
        backend = load("bert")
    seen = shapes_in(backend)
    rows = backend.tokenize(TEXTS)

    together = backend.embed(rows)

    assert seen[0][:2] == (len(rows), max(map(len, rows)))
    np.testing.assert_allclose(together, np.concatenate([backend.embed([row]) for row in rows]), atol=1e-5)
    warned = [line for line in logs if line["event"] == "padding kept"]
    assert len(warned) == 1
    assert reason in warned[0]["reason"]


def test_a_broken_device_is_no_reason_to_go_on(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **named: Any) -> Any:
        if varlen._current.places is not None:
            raise DeviceBroken("an illegal memory access")
        return _right(*given, **named)

    monkeypatch.setattr(varlen, "_attention", broken)
    with pytest.raises(DeviceBroken):
        load("bert")
