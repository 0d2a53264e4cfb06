"""The wire format of tokenize and detokenize: LocalAI's and vLLM's in one, and TEI's where its names are used.

| asked with | answered with |
|---|---|
| `content` (LocalAI), `prompt` (vLLM), `input` | `{model, tokens, count, max_model_len}`; of a list of texts, a list each |
| `inputs` (TEI) | `[[{id, text, special, start, stop}]]` |
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.interactive import Answer, TokenDetail, Tokens
from shared.prompts import GivenInputType

# What a text may be called, ours last.
TEXT_NAMES = ("content", "prompt", "inputs", "input")
ID_NAMES = ("tokens", "ids")


class TokenizeFields(BaseModel):
    """The fields of POST /v1/tokenize beside its texts; null means not given, unknown ones are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    add_special_tokens: bool | None = Field(None, description="those that the model adds too; true")
    return_token_strs: bool | None = Field(None, description="`token_strs`: the tokens as the vocabulary spells them")
    return_offsets: bool | None = Field(None, description="`offsets`: the characters of the text that each token is of")
    count_only: bool | None = Field(None, description="no `tokens`, only how many they are")
    input_type: GivenInputType = None
    prompt_name: str | None = Field(None, min_length=1, max_length=200)

    def detail(self, name: str) -> TokenDetail:
        """What the worker has to tell, for a text of this name."""
        if name == "inputs" or self.return_token_strs or self.return_offsets:
            return "all"
        return "count" if self.count_only else "ids"


class TokenizeBody(TokenizeFields):
    """Exactly one of the four names of a text."""

    content: str | None = None
    prompt: str | None = None
    input: str | list[str] | None = None
    inputs: str | list[str] | None = None


class DetokenizeFields(BaseModel):
    """The fields of POST /v1/detokenize beside its ids."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    skip_special_tokens: bool | None = Field(None, description="leave out those that the model adds; true")


class DetokenizeBody(DetokenizeFields):
    """Exactly one of the two names of ids: `tokens` is LocalAI's and vLLM's, `ids` TEI's."""

    tokens: list[int] | list[list[int]] | None = None
    ids: list[int] | list[list[int]] | None = None


class TokenizeObject(TypedDict, total=False):
    """Of one text; of a list of texts `tokens`, `token_strs` and `offsets` are lists of the same, and `counts` has each."""

    model: str
    count: int
    counts: list[int]
    max_model_len: int | None
    tokens: list[Any]
    token_strs: list[Any]
    offsets: list[Any]


class DetokenizeObject(TypedDict):
    """`content` as LocalAI calls it, `prompt` as vLLM does: a text, or of several lists of ids their texts."""

    model: str
    content: Any
    prompt: Any


class Token(TypedDict):
    """TEI's: special tokens, and those of a prompt, have no place in the text."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


def tokenize_object(model: str, answer: Answer, fields: TokenizeFields, *, is_list: bool) -> dict[str, Any]:
    """What is answered for `content`, `prompt` and `input`."""
    said: dict[str, Any] = {"model": model, "count": sum(answer.tokens), "max_model_len": answer.max_tokens}
    columns: dict[str, list[Any]] = {}
    if not fields.count_only:
        columns["tokens"] = [tokens.ids for tokens in answer.split]
    if fields.return_token_strs:
        columns["token_strs"] = [tokens.pieces for tokens in answer.split]
    if fields.return_offsets:
        columns["offsets"] = [tokens.spans for tokens in answer.split]
    if is_list:
        return said | {"counts": list(answer.tokens)} | columns
    return said | {name: column[0] for name, column in columns.items()}


def tei_tokens(texts: Sequence[str], answer: Answer) -> list[list[Token]]:
    """What is answered for `inputs`."""
    return [_tokens(text, tokens) for text, tokens in zip(texts, answer.split, strict=True)]


def _tokens(text: str, tokens: Tokens) -> list[Token]:
    spans = tokens.spans or list(repeat(None, len(tokens.ids)))
    return [
        {
            "id": token_id,
            "text": piece if span is None else text[span[0] : span[1]],
            "special": span is None,
            "start": None if span is None else span[0],
            "stop": None if span is None else span[1],
        }
        for token_id, piece, span in zip(tokens.ids, tokens.pieces, spans, strict=True)
    ]
