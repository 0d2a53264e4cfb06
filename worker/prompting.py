"""Which prompt goes before the texts of a request, and texts tokenized with the one that each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shared.errors import InvalidParameter
from shared.models import ModelConfig
from shared.prompts import prompt_of, written_out
from worker.backends import Backend, TokenizedText


class Wishes(Protocol):
    """What a request says of its prompt."""

    @property
    def model(self) -> ModelConfig:
        """Its entry."""

    @property
    def prompt_name(self) -> str | None:
        """The name of one of the model's prompts."""

    @property
    def input_type(self) -> str | None:
        """What the texts are: one of shared.prompts.InputType."""

    @property
    def query(self) -> str | None:
        """Of a request to a reranker: what stands before every document."""


def choose_prompt(wishes: Wishes, backend: Backend) -> str:
    """The prompt before every text. Raises InvalidParameter for a name or an input type that there is not."""
    if wishes.query is not None:
        return wishes.query
    prompts = backend.prompts
    if wishes.prompt_name is not None:
        if wishes.prompt_name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise InvalidParameter(
                f"{wishes.model.name!r} has no prompt named {wishes.prompt_name!r}; it has {known}", param="prompt_name"
            )
        return prompts[wishes.prompt_name]
    if wishes.input_type is not None:
        try:
            return prompt_of(wishes.input_type, prompts)
        except KeyError:
            raise InvalidParameter("input_type must be such as `query` or `document`", param="input_type") from None
    return prompts[backend.default_prompt_name] if backend.default_prompt_name else ""


def own_prompt(text: str, wishes: Wishes, backend: Backend) -> str:
    """The prompt that a text brings along, where its model's entry says that it then gets no other; else ""."""
    if not wishes.model.keep_prefix or wishes.query is not None:
        return ""
    return written_out(text, backend.prompts)


def tokenize(texts: Sequence[str], prompt: str, wishes: Wishes, backend: Backend) -> list[TokenizedText]:
    """Each with `prompt` before it, or with the one that it brings along. Raises whatever the backend does."""
    own = [own_prompt(text, wishes, backend) for text in texts] if wishes.model.keep_prefix else []
    if not any(own):
        return backend.tokenize(texts, prompt)
    # What is written out is taken for the prompt that it is: some models leave theirs out of the pooling.
    split = [(brought, text[len(brought) :]) if brought else (prompt, text) for brought, text in zip(own, texts, strict=True)]
    tokenized: dict[int, TokenizedText] = {}
    for each in dict.fromkeys(before for before, _ in split):
        positions = [position for position, (before, _) in enumerate(split) if before == each]
        tokenized |= zip(positions, backend.tokenize([split[position][1] for position in positions], each), strict=True)
    return [tokenized[position] for position in range(len(texts))]
