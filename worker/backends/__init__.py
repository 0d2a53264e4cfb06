"""Backends: the libraries that run models, behind one small contract. Only modules of this folder import torch.

A new backend is a module here and a line in BACKENDS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from shared.interactive import Tokens
from shared.models import ModelConfig, ModelSource, is_reranker
from shared.presence import ModelKind

# ONNX Runtime's wheels for Linux tell Microsoft of each session, under an id that they keep in the home directory, unless this
# is set before their first import. Nothing that happens here is told to anybody.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """What goes into the model for one text: its prompt before it, cut to the model's length, special tokens added."""

    ids: np.ndarray[Any, np.dtype[np.int32]]  # int32 [tokens]
    truncated: bool
    # Tokens of the prompt, for models that leave it out of the pooling; 0 otherwise.
    prompt_tokens: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Backend(Protocol):
    """One loaded model on one device. Its methods, but `close`, may be called from several threads at once.

    A row of a reranker is a pair: the prompt is its query, and its vector [score, score before the model's activation].
    """

    kind: ModelKind
    dimensions: int
    max_tokens: int  # most tokens of a text, special ones counted
    vocabulary: int  # ids are below this
    device: str
    dtype: str
    prompts: Mapping[str, str]  # name -> prefix, the model's own and the configuration's
    default_prompt_name: str | None

    @property
    def engine(self) -> str:
        """What runs it now: onnx, torch or fake."""

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """In the order given, as `SentenceTransformer.encode` would tokenize `prompt + text`."""

    def wrap(self, token_ids: Sequence[int]) -> TokenizedText:
        """A caller's own ids of this model's vocabulary: special tokens added, cut to length."""

    def split(self, text: str, *, special: bool) -> Tokens:
        """The whole text, cut to nothing, in tokens with pieces and spans; `special`: with the ones that the model adds.

        Raises UnicodeEncodeError for a lone surrogate, InvalidParameter if the model has no tokenizer that tells.
        """

    def join(self, token_ids: Sequence[int], *, special: bool) -> str:
        """The text of ids below `vocabulary`; `special`: special tokens are written out. Raises InvalidParameter as `split`."""

    def embed(self, rows: Sequence[TokenizedText]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [rows, dimensions], in the order given; the model's own pooling and normalization.

        Raises OutOfMemory if the device has no room for the batch, any other exception if the model fails on it,
        DeviceBroken if the process can use the device no longer.
        """

    def close(self) -> None:
        """Give the memory back."""


class OutOfMemory(Exception):
    """The device has no room for this batch; a smaller one may fit."""


class DeviceBroken(BaseException):
    """The device does nothing more for this process, which had better end: no `except Exception` is to catch this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What the worker decides about a model it loads."""

    device: str  # cpu, cuda:0, mps
    threads: int  # intra-op threads of one batch on a CPU
    lone_threads: int = 0  # of a small batch while nothing else runs, where the engine can; 0: as many
    engines: Path | None = None  # where exports are kept; None: there are none
    export_failed: str | None = None  # why none could be made just now; it is not tried again
    varlen: bool = True  # on a GPU, layers without padding where the network allows
    is_exporting: bool = False  # an export is made once torch serves, which is to stand in until then


BACKENDS: dict[str, str] = {
    "sentence-transformers": "worker.backends.engines:load",
    "cross-encoder": "worker.backends.cross_encoder:CrossEncoderBackend",
    "fake": "worker.backends.fake:FakeBackend",
}


def load_backend(config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
    """Load a model with the backend that its entry names. Raises whatever the library does; the reason is for the caller."""
    return cast(Backend, import_backend(config, source)(config, source, options))


def import_backend(config: ModelConfig, source: ModelSource | None = None) -> Callable[..., Any]:
    """The backend's class. Importing its library takes seconds and memory, which no model is to blame for."""
    scores = config.backend != "fake" and is_reranker(config, source.directory if source is not None else None)
    module, _, name = BACKENDS["cross-encoder" if scores else config.backend].partition(":")
    return cast(Callable[..., Any], getattr(import_module(module), name))
