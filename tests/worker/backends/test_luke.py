"""LUKE: the vectors of transformers' LukeModel, fed with the ids of the sentencepiece file itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

from tests.support.models import MAX_TOKENS, SENTENCES, build_luke, copy_of, luke_vectors
from tests.worker.backends.conftest import Build, LoadFolder
from worker.backends.checks import SENTENCEPIECE_FILE, WrongModel, fairseq_ids
from worker.backends.luke import PREFIX, is_luke

TEXTS = (*SENTENCES, "query: 夕飯はお肉です。", "長い文章です。" * 50, "知らない漢字：龘", "<ent> 東京 <ent2>", " a  b ")
BEGIN, END = 0, 2


@pytest.fixture(params=["luke", "luke-with-modules"])
def folder(request: pytest.FixtureRequest, build: Build) -> Path:
    """As the repository is, with and without modules.json."""
    return build(request.param)


def test_luke_gives_lukes_vectors_in_any_batch(folder: Path, load_folder: LoadFolder) -> None:
    backend = load_folder(folder)
    expected = luke_vectors(folder, TEXTS)
    rows = backend.tokenize(TEXTS)

    np.testing.assert_allclose(backend.embed(rows), expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([backend.embed([row]) for row in rows]), expected, atol=1e-5)


def test_lukes_ids_are_those_of_the_sentencepiece_file(folder: Path, load_folder: LoadFolder) -> None:
    backend = load_folder(folder)
    pieces = SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_FILE))

    for text, row in zip(SENTENCES, backend.tokenize(SENTENCES), strict=True):
        assert row.ids.tolist() == [BEGIN, *fairseq_ids(pieces, text), END]
    assert backend.max_tokens == MAX_TOKENS


def test_lukes_added_tokens_without_a_row_in_the_table_are_text(folder: Path, load_folder: LoadFolder) -> None:
    backend = load_folder(folder)

    (row,) = backend.tokenize(["<ent> 東京 <ent2>"])

    assert row.ids.max() < backend.vocabulary


def test_a_checkpoint_with_lukes_name_before_its_weights_loads(tmp_path: Path, build: Build, load_folder: LoadFolder) -> None:
    folder = copy_of(build("luke"), tmp_path / "prefixed")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({PREFIX + name: weight for name, weight in weights.items()}, folder / "pytorch_model.bin")
    backend = load_folder(folder)

    np.testing.assert_allclose(backend.embed(backend.tokenize(TEXTS)), luke_vectors(build("luke"), TEXTS), atol=1e-5)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path, load_folder: LoadFolder) -> None:
    folder = build_luke(tmp_path / "lacking")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del weights["encoder.layer.1.output.dense.weight"]
    torch.save(weights, folder / "pytorch_model.bin")

    with pytest.raises(WrongModel, match=r"lacks 1 weights, such as encoder\.layer\.1\.output\.dense\.weight"):
        load_folder(folder)


def test_nothing_is_written_into_the_folder(folder: Path, load_folder: LoadFolder) -> None:
    before = {file: file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))}

    load_folder(folder)

    assert {file: file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))} == before


def test_other_models_are_not_taken_for_luke(build: Build) -> None:
    assert is_luke(build("luke"))
    assert not is_luke(build("e5"))
    assert not is_luke(build("bert"))
