"""Texts to token ids with the `tokenizers` object itself: ten times as fast as through its Hugging Face wrapper.

The wrapper pads, truncates and makes tensors; here the batch does that. What comes out is what the wrapper would give,
which `agrees` checks on texts chosen to tell (at load, by the backend).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from worker.backends import TokenizedText

# Where a tokenizer might differ from its wrapper: nothing, white space of all kinds, case, compositions, signs of several
# code points, the spellings of special tokens, other scripts.
PROBES = (
    "",
    "a",
    "Hello, World! It's  9 o'clock.",
    "\u3000 \t leading and trailing \r\n\x85\u2003",
    "  two  spaces\n\nand lines ",
    "ÜNÏ CÖDÉ ﬁ ①½ e\u0301 İI\u0307",
    "夕飯はお肉です。今日は、いい天気ですね。",
    "👩‍👩‍👧 emoji 🇯🇵",
    "<s> </s> <mask> [MASK] [SEP] <unk> <ent> <|endoftext|>",
    "query: passage: \x00\ufeff\u200b\ufffd",
)
# Texts beyond so many characters for each token that the model reads are cut before they are tokenized, where that
# cannot change anything; a word of any length is one token for some tokenizers, hence the check of what came out. A text in
# which there is nowhere to cut, such as Japanese on a single line, is tokenized whole: 0.7 µs a character.
CHARACTERS_PER_TOKEN = 16
# Pre-tokenizers that always begin something new with white space: what comes after it cannot change what is before.
_SPLIT_AT_WHITE_SPACE = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel"}
_WHITE_SPACE = " \t\n\r\u3000"  # for Python, Rust and all of these
# Of the expressions that GPT-4, Llama 3 and Qwen split with; they leave the end of a line with a sign before it.
_SIGN_OF_GPT = r"\s+(?!\S)"


class FastTokenizer:
    """One tokenizer with its truncation. Nothing in it changes after it is made, so threads may share it."""

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int, *, truncates_left: bool, strips: bool = False, lowers: bool = False
    ) -> None:
        described = tokenizer.to_str()
        self._tokenizer = Tokenizer.from_str(described)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = tokenizer.encode_special_tokens
        self._strips, self._lowers, self._truncates_left = strips, lowers, truncates_left
        self._max_tokens = max_tokens
        self._begin, self._end = _template(self._tokenizer)
        self._max_body = max(0, max_tokens - len(self._begin) - len(self._end))
        signs = "" if truncates_left else _cut_before(json.loads(described)["pre_tokenizer"])
        # Right behind a word: a run of white space is left whole.
        self._place_to_cut = re.compile(rf"(?<=\S)[{signs}]") if signs else None

    @classmethod
    def read(cls, file: Path) -> FastTokenizer:
        """What `write` wrote. Raises OSError, ValueError and KeyError for a damaged file."""
        says = json.loads(file.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_str(says.pop("tokenizer"))
        tokenizer.encode_special_tokens = says.pop("encode_special_tokens")
        return cls(tokenizer, **says)

    def write(self, file: Path) -> None:
        """All that it does, for a process without the model's own libraries."""
        says = {"tokenizer": self._tokenizer.to_str(), "encode_special_tokens": self._tokenizer.encode_special_tokens}
        says |= {"max_tokens": self._max_tokens, "truncates_left": self._truncates_left}
        file.write_text(json.dumps(says | {"strips": self._strips, "lowers": self._lowers}), encoding="utf-8")

    @property
    def tokenizer(self) -> Tokenizer:
        """The object itself, which cuts and pads nothing."""
        return self._tokenizer

    def __call__(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """In the order given. Raises UnicodeEncodeError for a lone surrogate."""
        bodies = self.bodies([self.readable(prompt + text) for text in texts], self._max_body)
        return [self.wrap(body) for body in bodies]

    def bodies(self, readable: Sequence[str], tokens: int) -> list[list[int]]:
        """The ids of texts without special ones; of one with more than `tokens`, more than so many of the first.

        Raises UnicodeEncodeError for a lone surrogate.
        """
        heads = [self._head(text, tokens) for text in readable]
        try:
            bodies = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(heads, add_special_tokens=False)]
        except TypeError:
            for text in readable:
                text.encode()  # says better what is wrong
            raise
        for index, (text, head) in enumerate(zip(readable, heads, strict=True)):
            # A cut text must still be longer than what is read; one that is not was cut too early.
            if len(head) < len(text) and len(bodies[index]) <= tokens:
                bodies[index] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return bodies

    def wrap(self, body: Sequence[int], prompt_tokens: int = 0) -> TokenizedText:
        """Special tokens added, cut to length."""
        truncated = len(body) > self._max_body
        if truncated:
            body = body[len(body) - self._max_body :] if self._truncates_left else body[: self._max_body]
        return TokenizedText(np.array([*self._begin, *body, *self._end], np.int32), truncated, prompt_tokens)

    def prompt_tokens(self, prompt: str) -> int:
        """Tokens in front of the text that are the prompt's: with the special ones before it, without those behind it."""
        return len(self([prompt])[0]) - len(self._end[-1:])

    def agrees(self, reference: Callable[[str], Sequence[int]], max_tokens: int) -> bool:
        """Whether `reference`, the slow way, gives the same ids for every probe, over-long ones among them."""
        long = [text * (min(max_tokens, 8192) // 4 + 2) for text in ("the quick brown fox ", "夕飯はお肉です。")]
        return all(self([text])[0].ids.tolist() == list(reference(text)) for text in (*PROBES, *long))

    def readable(self, text: str) -> str:
        """The text as the model has it tokenized."""
        text = text.strip() if self._strips else text
        return text.lower() if self._lowers else text

    def _head(self, text: str, tokens: int) -> str:
        most = CHARACTERS_PER_TOKEN * (tokens + 1)
        if len(text) <= most or self._place_to_cut is None:
            return text
        place = self._place_to_cut.search(text, most)
        return text if place is None else text[: place.start()]


def _template(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and behind a single text."""
    encoding = tokenizer.encode("a")
    is_special = encoding.special_tokens_mask
    first = is_special.index(0) if 0 in is_special else len(is_special)
    last = len(is_special) - is_special[::-1].index(0) if 0 in is_special else len(is_special)
    return encoding.ids[:first], encoding.ids[last:]


def _cut_before(pre_tokenizer: dict[str, Any] | None) -> str:
    """The signs before which a text may be cut; none if it may not."""
    found = ""
    for part in _parts(pre_tokenizer):
        kind = part["type"]
        if kind in _SPLIT_AT_WHITE_SPACE and part.get("use_regex", True):
            return _WHITE_SPACE
        is_gpt = kind == "Split" and part["behavior"] == "Isolated" and _SIGN_OF_GPT in part["pattern"].get("Regex", "")
        if is_gpt or (kind == "Metaspace" and part.get("split", True)):
            found = " "
    return found


def _parts(pre_tokenizer: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if pre_tokenizer is not None:
        yield pre_tokenizer
        for part in pre_tokenizer.get("pretokenizers", []):
            yield from _parts(part)
