"""keep_prefix: a text that brings its prompt along gets no other one, and has the vector that the prompt would give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from shared.models import ModelConfig, ModelSource, Parameters
from tests.worker.backends.conftest import Build, build
from worker.backends import Backend, LoadOptions, load_backend
from worker.prompting import choose_prompt, tokenize
from worker.work import EmbedRequest

__all__ = ["build"]


def loaded(folder: Path, **entry: Any) -> tuple[ModelConfig, Backend]:
    config = ModelConfig(name="m", parameters=Parameters(model=str(folder)), engine="torch", **entry)
    return config, load_backend(config, ModelSource(directory=folder), LoadOptions(device="cpu", threads=1))


def vectors(config: ModelConfig, backend: Backend, texts: list[str], **wishes: Any) -> np.ndarray:
    request = EmbedRequest(model=config, lane="interactive", texts=texts, **wishes)
    return backend.embed(tokenize(texts, choose_prompt(request, backend), request, backend))


def test_a_written_prompt_is_not_doubled_where_the_entry_says_so(build: Build) -> None:
    reference = SentenceTransformer(str(build("e5")), device="cpu")
    texts = ["query: 夕飯はお肉です。", "夕飯はお肉です。", "passage: 夕飯はお肉です。", "query:夕飯", "query: "]

    config, backend = loaded(build("e5"), keep_prefix=True)
    kept = vectors(config, backend, texts, input_type="query")
    as_they_are = vectors(config, backend, texts)
    expected = reference.encode([texts[0], "query: " + texts[1], texts[2], "query: " + texts[3], texts[4]])
    np.testing.assert_allclose(kept, expected, atol=2e-6)
    np.testing.assert_allclose(as_they_are, reference.encode(texts), atol=2e-6)

    config, doubled = loaded(build("e5"))
    doubles = vectors(config, doubled, texts, input_type="query")
    np.testing.assert_allclose(doubles, reference.encode(texts, prompt="query: "), atol=2e-6)
    assert np.abs(doubles[0] - kept[0]).max() > 1e-3
    for each in (backend, doubled):
        each.close()


def test_a_written_prompt_is_left_out_of_the_pooling_like_a_given_one(build: Build) -> None:
    """Of models that leave theirs out."""
    config, backend = loaded(build("bert-without-prompt"), keep_prefix=True)
    reference = SentenceTransformer(str(build("bert-without-prompt")), device="cpu")

    found = vectors(config, backend, ["Represent the question: the fox", "the fox"], prompt_name="query")

    np.testing.assert_allclose(found[0], found[1], atol=2e-6)
    np.testing.assert_allclose(found[0], reference.encode("the fox", prompt_name="query"), atol=2e-6)
    backend.close()


@pytest.mark.parametrize("wishes", [{"input_type": "query"}, {"input_type": "clustering"}, {}])
def test_a_model_without_prompts_takes_every_input_type(wishes: dict[str, str]) -> None:
    config = ModelConfig(name="m", backend="fake", parameters=Parameters(model="fake"), keep_prefix=True)
    backend = load_backend(config, ModelSource(), LoadOptions(device="cpu", threads=1))
    assert choose_prompt(EmbedRequest(model=config, lane="bulk", texts=["a"], **wishes), backend) == ""
