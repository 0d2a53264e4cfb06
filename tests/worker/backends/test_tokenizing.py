"""FastTokenizer against the Hugging Face wrapper, and what it does with texts that are far too long."""

from __future__ import annotations

import random

import pytest
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from transformers import AutoTokenizer

from tests.support.models import SENTENCES
from tests.worker.backends.conftest import Build
from worker.backends.tokenizing import CHARACTERS_PER_TOKEN, FastTokenizer

MAX_TOKENS = 12
# Of Qwen2 and Qwen3; GPT-4's and Llama 3's take three digits at a time.
QWENS_EXPRESSION = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEPARATORS = (" ", "  ", "\n", " \n ", "\u3000", "", "、", " ")


@pytest.mark.parametrize("layout", ["e5", "bert", "qwen", "gpt"])
def test_a_long_text_is_cut_before_it_is_tokenized_and_nothing_changes(layout: str, build: Build) -> None:
    wrapper = AutoTokenizer.from_pretrained(build("qwen" if layout == "gpt" else layout))
    if layout == "gpt":
        # As the real ones split, whose letters are bytes afterwards.
        split = Split(Regex(QWENS_EXPRESSION), "isolated")
        wrapper.backend_tokenizer.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    fast = FastTokenizer(wrapper.backend_tokenizer, MAX_TOKENS, truncates_left=False)
    choose = random.Random(9)
    words = [*" ".join(SENTENCES).split(), "x" * 300, "...", "\t", "[SEP]", "<mask>", "龘"]

    cut = 0
    for _ in range(300):
        text = "".join(choose.choice(words) + choose.choice(SEPARATORS) for _ in range(choose.randint(1, 120)))
        expected = wrapper(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        whole = wrapper(text, truncation=False, verbose=False)["input_ids"]
        (row,) = fast([text])
        assert row.ids.tolist() == expected
        assert row.truncated == (len(whole) > MAX_TOKENS)
        cut += len(fast._head(text, fast._max_body)) < len(text)
    assert cut > 100


def test_a_head_that_turns_out_too_short_is_made_good(build: Build) -> None:
    """A word of any length is one token of BERT's."""
    wrapper = AutoTokenizer.from_pretrained(build("bert"))
    fast = FastTokenizer(wrapper.backend_tokenizer, MAX_TOKENS, truncates_left=False)
    text = "x" * 5 * MAX_TOKENS * CHARACTERS_PER_TOKEN + " the quick fox"

    assert len(fast._head(text, fast._max_body)) < len(text)
    (row,) = fast([text])
    assert row.ids.tolist() == wrapper(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    assert not row.truncated


@pytest.mark.parametrize("layout", ["e5", "bert", "qwen"])
@pytest.mark.parametrize(
    "line", ["夕飯はお肉です。今日は、いい天気\n", "夕飯は　", "a word or two "], ids=["lines", "wide", "words"]
)
def test_of_a_million_characters_the_beginning_is_tokenized(
    layout: str, line: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = AutoTokenizer.from_pretrained(build(layout))
    fast = FastTokenizer(wrapper.backend_tokenizer, MAX_TOKENS, truncates_left=False)
    seen: list[int] = []

    class Watched:
        def encode_batch_fast(self, texts: list[str], **options: bool) -> object:
            seen.extend(map(len, texts))
            return fast.tokenizer.encode_batch_fast(texts, **options)

    watched = FastTokenizer(wrapper.backend_tokenizer, MAX_TOKENS, truncates_left=False)
    monkeypatch.setattr(watched, "_tokenizer", Watched())
    text = line * (1_000_000 // len(line))

    (row,) = watched([text])

    assert row.truncated
    assert row.ids.tolist() == wrapper(text[:2000], truncation=True, max_length=MAX_TOKENS)["input_ids"]
    assert seen[0] < 2 * CHARACTERS_PER_TOKEN * MAX_TOKENS


def test_it_notices_when_the_wrapper_does_something_else(build: Build) -> None:
    wrapper = AutoTokenizer.from_pretrained(build("e5"))
    fast = FastTokenizer(wrapper.backend_tokenizer, MAX_TOKENS, truncates_left=False)

    def reference(text: str) -> list[int]:
        return list(wrapper(text, truncation=True, max_length=MAX_TOKENS)["input_ids"])

    assert fast.agrees(reference, MAX_TOKENS)
    assert not fast.agrees(lambda text: reference(text.lower()), MAX_TOKENS)
    assert not fast.agrees(lambda text: reference(text)[1:], MAX_TOKENS)
