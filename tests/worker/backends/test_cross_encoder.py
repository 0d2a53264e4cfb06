"""CrossEncoderBackend against CrossEncoder.predict, for small models in the layouts of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from structlog.testing import capture_logs

from shared.errors import InvalidParameter
from shared.models import ModelConfig, Parameters, is_reranker
from tests.support.models import SENTENCES, copy_of
from tests.support.rerankers import build_cross_encoder
from tests.worker.backends.conftest import Build, LoadFolder
from worker.backends.checks import WrongModel

LAYOUTS = ["cross-encoder", "cross-encoder-identity", "cross-encoder-xlm-r"]
LONG = "The quick brown fox, 夕飯はお肉です。 " * 40
DOCUMENTS = [*SENTENCES, LONG, "", " ", "[SEP] </s>", "👩‍👩‍👧 مرحبا \u202e", "x" * 3000, LONG + LONG]
QUERIES = ["what does the fox do?", "", LONG * 3, "protein " * 25]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_are_those_of_predict_whatever_the_batch(layout: str, build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build(layout))
    reference = CrossEncoder(str(build(layout)), device="cpu")
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    expected = reference.predict(pairs)
    raw = reference.predict(pairs, activation_fn=torch.nn.Identity())

    rows = [row for query in QUERIES for row in backend.tokenize(DOCUMENTS, query)]
    order = np.random.default_rng(3).permutation(len(rows))
    scores = np.empty((len(rows), 2), np.float32)
    for begin in range(0, len(order), 7):
        batch = order[begin : begin + 7]
        scores[batch] = backend.embed([rows[index] for index in batch])

    assert backend.kind == "rerank"
    np.testing.assert_allclose(scores[:, 0], expected, atol=2e-5)
    np.testing.assert_allclose(scores[:, 1], raw, atol=2e-5)
    assert expected.max() - expected.min() > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_are_cut_as_the_wrapper_cuts_them_and_say_so(layout: str, build: Build, load_folder: LoadFolder) -> None:
    """The longer one gives way, to the token."""
    backend = load_folder(build(layout))
    wrapper = CrossEncoder(str(build(layout)), device="cpu").tokenizer
    texts = ["fox " * length for length in (0, 1, 20, 29, 30, 31, 32, 33, 59, 60, 61, 62, 63, 64, 65, 66, 130)]

    for query in texts:
        for row, document in zip(backend.tokenize(texts, query), texts, strict=True):
            # As a batch: alone, an empty document counts as none.
            (whole,) = wrapper([query], [document], truncation=False, verbose=False)["input_ids"]
            (expected,) = wrapper([query], [document], truncation="longest_first", max_length=64)["input_ids"]
            assert row.ids.tolist() == expected
            assert row.truncated == (len(whole) > backend.max_tokens)


@pytest.mark.parametrize("context_size", [33, 34])
def test_pairs_of_very_long_texts_are_cut_as_the_wrapper_cuts_them(
    context_size: int, build: Build, load_folder: LoadFolder
) -> None:
    """The odd token is the longer one's, so which is longer must be known."""
    backend = load_folder(build("cross-encoder"), context_size=context_size)
    wrapper = CrossEncoder(str(build("cross-encoder")), device="cpu").tokenizer
    texts = ["fox " * length for length in (1, 17, 600, 601)]

    for query in texts:
        for row, document in zip(backend.tokenize(texts, query), texts, strict=True):
            (expected,) = wrapper([query], [document], truncation="longest_first", max_length=context_size)["input_ids"]
            assert row.ids.tolist() == expected


def test_a_model_whose_pairs_are_not_understood_tokenizes_itself(
    build: Build, load_folder: LoadFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.backends.cross_encoder import CrossEncoderBackend

    monkeypatch.setattr(CrossEncoderBackend, "_agrees", lambda self: False)
    backend = load_folder(build("cross-encoder"))

    rows = backend.tokenize(DOCUMENTS, "what does the fox do?")

    expected = CrossEncoder(str(build("cross-encoder")), device="cpu").predict([("what does the fox do?", d) for d in DOCUMENTS])
    np.testing.assert_allclose(backend.embed(rows)[:, 0], expected, atol=2e-6)
    assert [row.truncated for row in rows] == [len(document) > 1000 and " " in document for document in DOCUMENTS]


def test_half_a_character_is_refused_on_either_side(build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build("cross-encoder"))

    for query, document in (("\ud800", "a"), ("a", "b\udfff")):
        with pytest.raises(UnicodeEncodeError):
            backend.tokenize([document], query)


def test_a_reranker_takes_no_token_ids(build: Build, load_folder: LoadFolder) -> None:
    with pytest.raises(InvalidParameter):
        load_folder(build("cross-encoder")).wrap([1, 2])


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path, load_folder: LoadFolder) -> None:
    with pytest.raises(WrongModel, match="3 labels"):
        load_folder(build_cross_encoder(tmp_path / "nli", labels=3))


def test_an_engine_that_it_has_not_is_said_once(build: Build, load_folder: LoadFolder) -> None:
    with capture_logs() as logs:
        load_folder(build("cross-encoder"), engine="onnx")
        load_folder(build("cross-encoder"), engine="auto")

    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["torch serves instead of ONNX"]


def test_context_size_lowers_what_it_reads(build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build("cross-encoder"), context_size=16)
    reference = CrossEncoder(str(build("cross-encoder")), device="cpu", max_length=16)

    assert backend.max_tokens == 16
    expected = reference.predict([("the fox", document) for document in DOCUMENTS])
    np.testing.assert_allclose(backend.embed(backend.tokenize(DOCUMENTS, "the fox"))[:, 0], expected, atol=2e-6)


def test_a_directory_tells_that_it_is_a_reranker(tmp_path: Path, build: Build) -> None:
    def found(folder: Path, **entry: object) -> bool:
        return is_reranker(ModelConfig.model_validate({"name": "m", "parameters": Parameters(model="m"), **entry}), folder)

    assert found(build("cross-encoder"))
    assert not found(build("bert"))
    assert not found(build("xlm-r-without-modules"))
    assert found(build("bert"), reranking=True)
    assert found(build("bert"), backend="rerankers")
    assert found(build("bert"), known_usecases=["rerank"])
    assert not found(build("bert"), known_usecases=["embeddings"])
    folder = copy_of(build("cross-encoder"), tmp_path / "with-modules")
    (folder / "modules.json").write_text("[]")
    assert not found(folder)
    for broken in ("no JSON", json.dumps([]), json.dumps({"architectures": 7})):
        (folder / "modules.json").unlink(missing_ok=True)
        (folder / "config.json").write_text(broken)
        assert not found(folder)
