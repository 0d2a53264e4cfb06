"""Whole texts in tokens, and ids back in texts: by every model's own tokenizer."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from shared.errors import InvalidParameter
from tests.support.models import SENTENCES
from tests.worker.backends.conftest import Build, LoadFolder
from worker.backends.splitting import join, plain_tokenizer, split

TEXTS = [*SENTENCES, "", " ", "many words " * 200, "😀 \x00 مرحبا \u202e", "<s> [SEP] </s>", "w" * 10_000]


@pytest.mark.parametrize("layout", ["e5", "bert", "cross-encoder", "cross-encoder-xlm-r"])
def test_tokens_are_the_models_own_and_nothing_is_cut(layout: str, build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build(layout))
    wrapper = AutoTokenizer.from_pretrained(build(layout))
    for text in TEXTS:
        for special in (True, False):
            expected = wrapper(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"]
            found = backend.split(text, special=special)
            assert list(found.ids) == expected
            assert list(found.pieces) == wrapper.convert_ids_to_tokens(expected)
            assert len(found.spans) == len(expected)


@pytest.mark.parametrize("layout", ["e5", "bert", "luke"])
def test_spans_are_characters_of_the_text(layout: str, build: Build, load_folder: LoadFolder) -> None:
    text = "  The quick brown fox; 夕飯はお肉です。"
    found = load_folder(build(layout)).split(text, special=True)

    assert found.spans[0] is None
    assert found.spans[-1] is None
    spans = [span for span in found.spans if span is not None]
    assert spans == sorted(spans)
    # Sentencepiece's mark of a word's beginning may be a token of its own, which stands on the first character.
    covered = {place for begin, end in spans for place in range(begin, end)}
    assert {place for place, character in enumerate(text) if character != " "} <= covered
    assert max(covered) < len(text)


@pytest.mark.parametrize("layout", ["e5", "bert", "luke"])
def test_ids_become_their_text_again(layout: str, build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build(layout))
    ids = backend.split("the quick brown fox", special=True).ids

    assert backend.join(ids, special=False) == "the quick brown fox"
    with_special = backend.join(ids, special=True)
    assert with_special != "the quick brown fox"
    assert "the quick brown fox" in with_special
    assert backend.join([], special=True) == ""


def test_what_an_embedded_text_costs_is_what_is_counted(build: Build, load_folder: LoadFolder) -> None:
    for layout in ("luke", "xlm-r-slow", "e5"):
        backend = load_folder(build(layout))
        short = [text for text in TEXTS if not backend.tokenize([text])[0].truncated]
        assert len(short) > 5
        for text in short:
            assert list(backend.split(text, special=True).ids) == backend.tokenize([text])[0].ids.tolist()


def test_half_a_character_is_refused(build: Build, load_folder: LoadFolder) -> None:
    with pytest.raises(UnicodeEncodeError):
        load_folder(build("bert")).split("a \ud800", special=True)


def test_a_tokenizer_in_python_tells_no_spans(build: Build) -> None:
    class InPython:
        """What the wrapper of a tokenizer without `tokenizers` object does."""

        backend_tokenizer = None

    with pytest.raises(InvalidParameter, match="does not tell"):
        plain_tokenizer(InPython())
    fast = plain_tokenizer(AutoTokenizer.from_pretrained(build("bert")))
    assert join(fast, split(fast, "the fox", special=False).ids, special=False) == "the fox"
