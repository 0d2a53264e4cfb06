"""Prompts: what callers call them (`input_type`), and what models call them (the names in `prompts`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

InputType = Literal["query", "document", "classification", "clustering"]

# What other APIs call the same (Cohere, Jina, NVIDIA, Gemini), letters and figures only.
_SPELLINGS: Mapping[str, InputType] = {
    "searchquery": "query",
    "retrievalquery": "query",
    "passage": "document",
    "searchdocument": "document",
    "retrievaldocument": "document",
    "retrievalpassage": "document",
}
# What models call the prompt that an input type stands for, letters and figures only; the first that says anything is taken.
_PROMPT_NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "searchquery", "retrievalquery", "s2pquery", "websearchquery", "question"),
    "document": ("document", "passage", "searchdocument", "retrievaldocument", "retrievalpassage", "corpus", "doc"),
    "classification": ("classification",),
    "clustering": ("clustering", "separation"),
}
_SIGNS = re.compile(r"[\W_]+")


def _plain(name: str) -> str:
    return _SIGNS.sub("", name).lower()


def _canonical(given: Any) -> Any:
    return _SPELLINGS.get(_plain(given), given) if isinstance(given, str) else given


# A field of a request: any spelling goes in, ours comes out.
GivenInputType = Annotated[InputType | None, BeforeValidator(_canonical)]


def prompt_of(input_type: str, prompts: Mapping[str, str]) -> str:
    """The prompt among a model's that an input type stands for; "" if it has none. Raises KeyError for what is no input type."""
    by_plain_name: dict[str, str] = {}
    for name, prompt in prompts.items():
        by_plain_name[_plain(name)] = prompt or by_plain_name.get(_plain(name), "")
    return next((by_plain_name[name] for name in _PROMPT_NAMES[input_type] if by_plain_name.get(name)), "")


def written_out(text: str, prompts: Mapping[str, str]) -> str:
    """The longest of a model's prompts that a text already begins with; "" if it begins with none."""
    return max((prompt for prompt in prompts.values() if prompt and text.startswith(prompt)), key=len, default="")
