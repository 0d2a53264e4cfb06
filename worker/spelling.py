"""Spelling: a request to tokenize or to detokenize, which is answered by the model's tokenizer alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shared.errors import InvalidParameter, TooLarge
from shared.interactive import TokenDetail, Tokens
from worker.backends import Backend
from worker.prompting import Wishes, own_prompt

# Of one request: an answer lies in Redis, and in web's memory. A token is some 6 bytes as an id, and 60 with piece and span.
MAX_TOKENS: dict[TokenDetail, int] = {"count": 2**62, "ids": 2_000_000, "all": 200_000}
MAX_CHARACTERS = 16 * 2**20


class Request(Wishes, Protocol):
    """What Spelling reads of a request."""

    @property
    def special_tokens(self) -> bool:
        """Whether those that the model adds count too, or are written out."""

    @property
    def detail(self) -> TokenDetail:
        """How much of the tokens is wanted."""


class Spelling:
    """What was made of a request's texts, or of its ids, so far; in their order."""

    def __init__(self, request: Request, backend: Backend, prompt: str) -> None:
        self.split: list[Tokens] = []
        self.texts: list[str] = []
        self._request, self._backend, self._prompt = request, backend, prompt
        self._tokens = self._characters = 0

    def add_text(self, text: str) -> int:
        """Tokenize the next text; returns how many tokens it has. Raises InvalidParameter, TooLarge."""
        request = self._request
        prompt = "" if own_prompt(text, request, self._backend) else self._prompt
        try:
            found = self._backend.split(prompt + text, special=request.special_tokens)
        except UnicodeEncodeError:
            raise InvalidParameter("the text holds half a character (a lone surrogate)", param="input") from None
        self._tokens += len(found.ids)
        if self._tokens > MAX_TOKENS[request.detail]:
            raise TooLarge(f"these are over {MAX_TOKENS[request.detail]} tokens; ask with count_only, or for fewer texts at once")
        if request.detail == "all":
            self.split.append(Tokens(found.ids, found.pieces, [_behind(len(prompt), span) for span in found.spans]))
        elif request.detail == "ids":
            self.split.append(Tokens(found.ids))
        return len(found.ids)

    def add_ids(self, token_ids: Sequence[int]) -> int:
        """Join the next ids, which are in range; returns how many they are. Raises InvalidParameter, TooLarge."""
        self.texts.append(self._backend.join(token_ids, special=self._request.special_tokens))
        self._characters += len(self.texts[-1])
        if self._characters > MAX_CHARACTERS:
            raise TooLarge(f"the texts of these ids are over {MAX_CHARACTERS} characters")
        return len(token_ids)


def _behind(prompt_characters: int, span: tuple[int, int] | None) -> tuple[int, int] | None:
    """Where a token lies in the caller's text; None if it is of the prompt alone."""
    if span is None or (prompt_characters and span[1] <= prompt_characters):
        return None
    return max(0, span[0] - prompt_characters), span[1] - prompt_characters
