"""FastTokenizer against the Hugging Face wrapper, and what it does with texts that are far too long."""

from __future__ import annotations

import random

import pytest
from transformers import AutoTokenizer

from tests.support.models import SENTENCES
from tests.worker.backends.conftest import Build
from worker.backends.tokenizing import CHARACTERS_PER_TOKEN, FastTokenizer

MAX_TOKENS = 12
SEPARATORS = (" ", "  ", "\n", " \n ", "\u3000", "", "、", " ")


@pytest.mark.parametrize("layout", ["e5", "bert"])
def test_a_long_text_is_cut_before_it_is_tokenized_and_nothing_changes(layout: str, build: Build) -> None:
    wrapper = AutoTokenizer.from_pretrained(build(layout))
    fast = FastTokenizer(wrapper.backend_tokenizer, MAX_TOKENS, truncates_left=False)
    choose = random.Random(9)
    words = [*" ".join(SENTENCES).split(), "x" * 300, "[SEP]", "<mask>", "龘"]

    cut = 0
    for _ in range(300):
        text = "".join(choose.choice(words) + choose.choice(SEPARATORS) for _ in range(choose.randint(1, 120)))
        expected = wrapper(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        whole = wrapper(text, truncation=False, verbose=False)["input_ids"]
        (row,) = fast([text])
        assert row.ids.tolist() == expected
        assert row.truncated == (len(whole) > MAX_TOKENS)
        cut += len(fast._head(text)) < len(text)
    assert cut > 100


def test_a_head_that_turns_out_too_short_is_made_good(build: Build) -> None:
    """A word of any length is one token of BERT's."""
    wrapper = AutoTokenizer.from_pretrained(build("bert"))
    fast = FastTokenizer(wrapper.backend_tokenizer, MAX_TOKENS, truncates_left=False)
    text = "x" * 5 * MAX_TOKENS * CHARACTERS_PER_TOKEN + " the quick fox"

    assert len(fast._head(text)) < len(text)
    (row,) = fast([text])
    assert row.ids.tolist() == wrapper(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    assert not row.truncated


def test_it_notices_when_the_wrapper_does_something_else(build: Build) -> None:
    wrapper = AutoTokenizer.from_pretrained(build("e5"))
    fast = FastTokenizer(wrapper.backend_tokenizer, MAX_TOKENS, truncates_left=False)

    def reference(text: str) -> list[int]:
        return list(wrapper(text, truncation=True, max_length=MAX_TOKENS)["input_ids"])

    assert fast.agrees(reference, MAX_TOKENS)
    assert not fast.agrees(lambda text: reference(text.lower()), MAX_TOKENS)
    assert not fast.agrees(lambda text: reference(text)[1:], MAX_TOKENS)
