"""OnnxBackend: an export of a SentenceTransformer, run by ONNX Runtime; neither torch nor transformers is imported.

The graph goes from token ids to vectors: pooling and what else the model's modules say is in it (exporting.py).
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from shared.interactive import Tokens
from shared.logs import get_logger
from shared.models import ModelConfig
from shared.presence import ModelKind
from worker.backends import OutOfMemory, TokenizedText
from worker.backends.checks import merge_prompts
from worker.backends.exports import GRAPH, REFERENCE, TOKENIZER, Description
from worker.backends.reference import Reference
from worker.backends.splitting import join, split_as_read
from worker.backends.tokenizing import FastTokenizer

logger = get_logger(__name__)

Vectors = np.ndarray[Any, np.dtype[np.float32]]

# What is small enough for several threads: who comes meanwhile waits for no longer than behind a batch of questions.
LONE_TOKENS = 128
# A second session has the weights a second time. Where they are larger the model takes its time in any case.
LONE_WEIGHTS_BYTES = 200_000_000

_ERRORS_ONLY = 3
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory")


class _Running:
    """The batches that this process has in ONNX Runtime now, of all models."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches = 0

    @contextmanager
    def one_more(self) -> Iterator[bool]:
        """Whether it is the only one, at its start."""
        with self._lock:
            self._batches += 1
            is_alone = self._batches == 1
        try:
            yield is_alone
        finally:
            with self._lock:
                self._batches -= 1


_running = _Running()


class OnnxBackend:
    """One export on the CPU. Thread-safe: the streams share one session, whose `run` releases Python's lock.

    A question that is alone would leave the other cores idle: a second session has threads for them. It gives the same bits.
    """

    kind: ModelKind = "embed"
    engine = "onnx"
    device = "cpu"

    def __init__(self, config: ModelConfig, folder: Path, *, threads: int, lone_threads: int = 0) -> None:
        """Raises whatever a damaged folder makes the libraries raise, and WrongModel for an entry's impossible prompt."""
        description = Description.read(folder)
        self.dtype = description.dtype
        self.dimensions, self.max_tokens = description.dimensions, description.max_tokens
        self.vocabulary = description.vocabulary
        self.prompts: Mapping[str, str]
        self.prompts, self.default_prompt_name = merge_prompts(description.prompts or {}, description.default_prompt_name, config)
        self._description = description
        self._fast: FastTokenizer = FastTokenizer.read(folder / TOKENIZER)
        self._prompt_tokens = {"": 0}
        self._session: Any = _session(folder / GRAPH, threads)
        is_small = sum(file.stat().st_size for file in folder.iterdir()) <= LONE_WEIGHTS_BYTES
        self._lone: Any = _session(folder / GRAPH, lone_threads, is_lone=True) if lone_threads > threads and is_small else None
        self._inputs = frozenset(entry.name for entry in self._session.get_inputs())

    def check(self, folder: Path) -> float:
        """Its agreement with torch, whose vectors lie in the folder. Raises Disagreement."""
        return Reference.read(folder / REFERENCE).check(self)

    # The contract

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """See Backend."""
        tokenized = self._fast(texts, prompt)
        if not (self._description.excludes_prompt and prompt):
            return tokenized
        if prompt not in self._prompt_tokens:
            self._prompt_tokens[prompt] = self._fast.prompt_tokens(prompt)
        return [TokenizedText(text.ids, text.truncated, self._prompt_tokens[prompt]) for text in tokenized]

    def wrap(self, token_ids: Sequence[int]) -> TokenizedText:
        """See Backend."""
        return self._fast.wrap(token_ids)

    def split(self, text: str, *, special: bool) -> Tokens:
        """See Backend."""
        return split_as_read(self._fast.tokenizer, text, self._fast.readable(text), special=special)

    def join(self, token_ids: Sequence[int], *, special: bool) -> str:
        """See Backend."""
        return join(self._fast.tokenizer, token_ids, special=special)

    def embed(self, rows: Sequence[TokenizedText]) -> Vectors:
        """See Backend."""
        if not rows:
            return np.zeros((0, self.dimensions), np.float32)
        session, lone = self._session, self._lone
        assert session is not None, "nobody uses a closed model"
        filled = self._fill(rows)
        try:
            with _running.one_more() as is_alone:
                if is_alone and lone is not None and filled["input_ids"].size <= LONE_TOKENS:
                    session = lone
                (vectors,) = session.run(None, filled)
        except Exception as error:
            if any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise OutOfMemory from None
            raise
        found: Vectors = vectors
        return found

    def close(self) -> None:
        """See Backend. The session's arena goes with it."""
        self._session = self._lone = None
        gc.collect()

    def _fill(self, rows: Sequence[TokenizedText]) -> dict[str, np.ndarray[Any, Any]]:
        lengths = [len(row) for row in rows]
        width = max(lengths)
        if min(lengths) == 0:
            raise ValueError("a text without any token")
        pads_left = self._description.pads_left
        ids = np.full((len(rows), width), self._description.pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        pooled = np.zeros((len(rows), width), np.int64) if "pooling_mask" in self._inputs else mask
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            begin = width - length if pads_left else 0
            ids[index, begin : begin + length] = row.ids
            mask[index, begin : begin + length] = 1
            if pooled is not mask:
                pooled[index, begin + row.prompt_tokens : begin + length] = 1
        filled = {"input_ids": ids, "attention_mask": mask, "pooling_mask": pooled}
        if "token_type_ids" in self._inputs:
            filled["token_type_ids"] = np.zeros_like(ids)
        return {name: filled[name] for name in self._inputs}


def _session(graph: Path, threads: int, *, is_lone: bool = False) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Plans of memory are kept by shape, and no two batches have the same; without them 0.5 ms less for a short text.
    options.enable_mem_pattern = False
    # The arena stays: without it every batch asks the kernel for its pages (10 % in bulk). It ends with the session.
    options.enable_cpu_mem_arena = True
    # Idle threads are to sleep; they would take the core from the tokenizer and from web. Of a small batch no part is long
    # enough to wake one for it: there they spin while it runs, and no longer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if is_lone else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
