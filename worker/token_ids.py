"""Token ids that callers send instead of texts: what a model's `token_ids` policy makes of them."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from shared.errors import InvalidParameter
from shared.models import ModelConfig

# tiktoken keeps its files under the SHA-1 of where they come from.
_CL100K_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
_CL100K_FILE = hashlib.sha1(_CL100K_URL.encode(), usedforsecurity=False).hexdigest()


def refuse(config: ModelConfig) -> InvalidParameter:
    """Why ids are not taken by a model that says `reject`."""
    return InvalidParameter(
        f"the model {config.name!r} takes text, not token ids. LangChain's OpenAIEmbeddings sends ids of another "
        "vocabulary unless it is made with check_embedding_ctx_length=False",
        param="input",
    )


def check_range(token_ids: Sequence[Sequence[int]], vocabulary: int, model: str, *, param: str = "input") -> None:
    """Raises InvalidParameter if an id is not of the model's vocabulary."""
    for position, ids in enumerate(token_ids):
        wrong = next((token_id for token_id in ids if not 0 <= token_id < vocabulary), None)
        if wrong is not None:
            raise InvalidParameter(
                f"{param} {position}: {wrong} is no token id of {model!r}; its ids are below {vocabulary}", param=param
            )


def decode_cl100k(token_ids: Sequence[Sequence[int]]) -> list[str]:
    """The texts that OpenAI's cl100k_base encoding made these ids of.

    Raises InvalidParameter for an id that is not of cl100k_base, or if tiktoken's encoding file is not on this machine:
    it is read from where tiktoken keeps it and never downloaded here.
    """
    tokens = _cl100k_tokens(_cl100k_file())
    check_range(token_ids, len(tokens), "cl100k_base")
    return [b"".join(tokens[token_id] for token_id in ids).decode("utf-8", errors="replace") for ids in token_ids]


def _cl100k_file() -> Path:
    kept_in = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    file = Path(kept_in or Path(tempfile.gettempdir()) / "data-gym-cache") / _CL100K_FILE
    if not file.is_file():
        raise InvalidParameter(
            "token ids of cl100k_base cannot be decoded here: tiktoken's encoding file is not on the worker's machine "
            f"(TIKTOKEN_CACHE_DIR with {_CL100K_FILE} in it). Send text instead",
            param="input",
        )
    return file


@cache
def _cl100k_tokens(file: Path) -> list[bytes]:
    """The bytes of each id. A line of the file is the bytes in base64 and the id, ids ascending from 0."""
    tokens: list[bytes] = []
    for line in file.read_bytes().splitlines():
        encoded, _, rank = line.partition(b" ")
        if int(rank) != len(tokens):
            raise InvalidParameter(f"tiktoken's encoding file {file} is damaged", param="input")
        tokens.append(base64.b64decode(encoded))
    return tokens
