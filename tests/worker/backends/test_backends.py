"""The contract, on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.models import WITHOUT_FILES, ModelConfig, ModelSource, Parameters
from tests.worker.backends.conftest import Build
from worker.backends import BACKENDS, Backend, LoadOptions, load_backend

TEXTS = ["夕飯はお肉です。", "Hello", "a question of some length, is it not?", "many words " * 100, " ", "Hello"]


@pytest.fixture(scope="module", params=sorted(set(BACKENDS) - {"cross-encoder"}))
def backend(request: pytest.FixtureRequest, build: Build) -> Iterator[Backend]:
    """Each backend with a small model whose prompts are `query` and `document`; those of rerankers are pairs."""
    folder = None if request.param in WITHOUT_FILES else build("bert")
    config = ModelConfig(
        name="m",
        backend=request.param,
        parameters=Parameters(model=str(folder or "fake?max_tokens=64")),
        prompts={"query": "query: "},
        default_prompt_name="query",
    )
    loaded = load_backend(config, ModelSource(directory=folder), LoadOptions(device="cpu", threads=1))
    yield loaded
    loaded.close()


def test_it_says_what_it_is(backend: Backend) -> None:
    assert backend.dimensions > 0
    assert backend.max_tokens == 64
    assert backend.device == "cpu"
    assert backend.dtype == "float32"
    assert backend.prompts["query"] == "query: "
    assert backend.default_prompt_name == "query"


def test_vectors_come_in_the_order_given_whatever_the_batch(backend: Backend) -> None:
    rows = backend.tokenize(TEXTS)

    together = backend.embed(rows)
    alone = np.concatenate([backend.embed([row]) for row in rows])
    backwards = backend.embed(rows[::-1])[::-1]

    assert together.shape == (len(TEXTS), backend.dimensions)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(together, backwards, atol=2e-6)
    np.testing.assert_allclose(together[1], together[5], atol=2e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_text_is_cut_to_what_the_model_reads_and_says_so(backend: Backend) -> None:
    rows = backend.tokenize(TEXTS)

    assert [row.truncated for row in rows] == [False, False, False, True, False, False]
    assert len(rows[3]) == backend.max_tokens
    assert all(row.ids.max() < backend.vocabulary for row in rows)


def test_a_text_that_just_fits_is_not_cut(backend: Backend) -> None:
    body = backend.max_tokens - len(backend.wrap([]))

    assert not backend.wrap([5] * body).truncated
    assert backend.wrap([5] * (body + 1)).truncated
    assert len(backend.wrap([5] * (body + 1))) == backend.max_tokens


def test_a_prompt_goes_before_the_text(backend: Backend) -> None:
    (prompted,) = backend.tokenize(["Hello"], "query: ")
    (written_out,) = backend.tokenize(["query: Hello"])

    assert prompted.ids.tolist() == written_out.ids.tolist()


def test_wrapped_ids_are_what_the_text_would_be(backend: Backend) -> None:
    (row,) = backend.tokenize(["Hello"])

    assert backend.wrap(row.ids[1:-1].tolist()).ids.tolist() == row.ids.tolist()


def test_a_whole_text_is_split_into_the_ids_that_are_embedded(backend: Backend) -> None:
    for text in ("Hello", "夕飯はお肉です。", ""):
        found = backend.split(text, special=True)
        assert list(found.ids) == backend.tokenize([text])[0].ids.tolist()
        assert len(found.ids) == len(found.pieces) == len(found.spans)
        assert backend.split(text, special=False).ids == found.ids[1:-1]
    assert len(backend.split("many words " * 100, special=True).ids) > backend.max_tokens
    assert backend.join(backend.split("Hello", special=True).ids, special=False)
    assert backend.join([], special=True) == ""


def test_a_lone_surrogate_is_refused_and_the_backend_goes_on(backend: Backend) -> None:
    with pytest.raises(UnicodeEncodeError):
        backend.tokenize(["fine", "\ud83d"])

    assert len(backend.tokenize(["fine"])) == 1


def test_threads_may_share_it(backend: Backend) -> None:
    expected = backend.embed(backend.tokenize(TEXTS))

    def work(_: int) -> np.ndarray:
        return backend.embed(backend.tokenize(TEXTS))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(24)):
            np.testing.assert_allclose(found, expected, atol=2e-6)


def test_no_rows_give_no_vectors(backend: Backend) -> None:
    assert backend.embed(backend.tokenize([])).shape == (0, backend.dimensions)
