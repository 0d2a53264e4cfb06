"""SentenceTransformersBackend: the vectors of `SentenceTransformer.encode`, in batches that somebody else put together."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from shared.errors import InvalidParameter
from shared.interactive import Tokens
from shared.logs import get_logger
from shared.models import ModelConfig, ModelSource
from shared.presence import ModelKind
from worker.backends import DeviceBroken, LoadOptions, TokenizedText, luke, varlen
from worker.backends.checks import WrongModel, check_sentencepiece, check_vocabulary, merge_prompts
from worker.backends.failures import told_apart
from worker.backends.loading import choose_dtype, load, positions
from worker.backends.memory import give_back
from worker.backends.reference import LEAST_AGREEMENT, agreement
from worker.backends.splitting import join, plain_tokenizer, split_as_read
from worker.backends.tokenizing import PROBES, FastTokenizer

logger = get_logger(__name__)

# Where neither the model nor its tokenizer says how much it reads: attention over more than this is no use to anybody.
MAX_TOKENS = 32_768
# What a tokenizer may put into the features of a model that the batch is filled for here.
_FILLED = {"input_ids", "attention_mask", "token_type_ids"}

Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class _OwnText(TokenizedText):
    """A text that the model tokenizes itself, once more, in its batch."""

    text: str = ""
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """What another engine is made of."""

    model: SentenceTransformer
    tokenizer: FastTokenizer | None  # None if the model reads its texts in a way of its own
    inputs: frozenset[str]  # names of the tensors that the first module takes
    pad_id: int
    pads_left: bool
    normalizes: bool  # after the model's own modules
    excludes_prompt: bool


class SentenceTransformersBackend:
    """One SentenceTransformer. Thread-safe: forward passes run side by side."""

    kind: ModelKind = "embed"
    engine = "torch"

    def __init__(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> None:
        transformers_logging.disable_progress_bar()
        self._options = options
        self._own_lock = threading.Lock()  # the Hugging Face wrapper changes its tokenizer while it works
        self._use_threads()
        dtype = choose_dtype(config, options.device, is_checked=True)
        self._model: SentenceTransformer | None = load(config, source, options.device, dtype)
        self._first: Any = self._model[0]
        self._normalizes = self._excludes_prompt = self._pads_left = False
        self._pad_id = 0
        self._splitter: Any = None
        self._shape(config)

        self.device, self.dtype = options.device, str(dtype).removeprefix("torch.")
        self.prompts: Mapping[str, str]
        self.prompts, self.default_prompt_name = merge_prompts(self._model.prompts, self._model.default_prompt_name, config)
        self.max_tokens = self._cut_length(config)
        # Features of one text: which tensors the model wants, and what else goes with them.
        self._probe = self._preprocess(["probe"], "")
        self._fast = self._fast_tokenizer()
        self._prompt_tokens = {"": 0}
        self.vocabulary = self._check(source)
        self._is_varlen = False
        self.dimensions = self._check_vectors()
        if options.varlen and varlen.is_usable(self.device, dtype):
            self._is_varlen = self._try_varlen(config.name)

    # The contract

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """See Backend."""
        if self._fast is None:
            return [self._tokenize_own(text, prompt) for text in texts]
        tokenized = self._fast(texts, prompt)
        if not (self._excludes_prompt and prompt):
            return tokenized
        if prompt not in self._prompt_tokens:
            self._prompt_tokens[prompt] = self._fast.prompt_tokens(prompt)
        return [TokenizedText(text.ids, text.truncated, self._prompt_tokens[prompt]) for text in tokenized]

    def wrap(self, token_ids: Sequence[int]) -> TokenizedText:
        """See Backend. Raises InvalidParameter for a model that only reads text."""
        if self._fast is None:
            raise InvalidParameter("this model takes text, not token ids", param="input")
        return self._fast.wrap(token_ids)

    def split(self, text: str, *, special: bool) -> Tokens:
        """See Backend."""
        readable = text if self._fast is None else self._fast.readable(text)
        with self._own_lock:
            return split_as_read(self._plain(), text, readable, special=special)

    def join(self, token_ids: Sequence[int], *, special: bool) -> str:
        """See Backend."""
        with self._own_lock:
            return join(self._plain(), token_ids, special=special)

    def embed(self, rows: Sequence[TokenizedText]) -> Vectors:
        """See Backend."""
        self._use_threads()
        vectors = np.zeros((len(rows), self.dimensions), np.float32)
        groups: dict[tuple[int, str | None], list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault((row.prompt_tokens, row.prompt if isinstance(row, _OwnText) else None), []).append(index)
        with told_apart(self.device):
            for (prompt_tokens, prompt), indices in groups.items():
                group = [rows[index] for index in indices]
                places: AbstractContextManager[None] = nullcontext()
                if prompt is None:
                    if self._is_varlen:
                        places = varlen.without_padding([len(row) for row in group], self.device)
                    features = self._fill(group)
                    if prompt_tokens:
                        features["prompt_length"] = prompt_tokens
                else:
                    features = self._preprocess([row.text for row in group if isinstance(row, _OwnText)], prompt)
                with places:
                    vectors[indices] = self._forward(features)
        return vectors

    def close(self) -> None:
        """See Backend."""
        self._model = self._first = self._fast = self._splitter = None
        self._probe = {}
        give_back(self.device)

    def parts(self) -> Parts:
        """For an export. A change of them is a change of this backend."""
        assert self._model is not None, "nobody uses a closed model"
        inputs = frozenset(name for name, value in self._probe.items() if torch.is_tensor(value))
        return Parts(self._model, self._fast, inputs, self._pad_id, self._pads_left, self._normalizes, self._excludes_prompt)

    # Forward

    def _fill(self, rows: Sequence[TokenizedText]) -> dict[str, Any]:
        width = max(map(len, rows))
        if min(map(len, rows)) == 0:
            raise ValueError("a text without any token")
        ids = np.full((len(rows), width), self._pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            part = slice(width - len(row), width) if self._pads_left else slice(0, len(row))
            ids[index, part], mask[index, part] = row.ids, 1
        features: dict[str, Any] = {name: value for name, value in self._probe.items() if not torch.is_tensor(value)}
        features |= {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if "token_type_ids" in self._probe:
            # Pad positions are masked, so their type does not matter.
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        return features

    def _forward(self, features: dict[str, Any]) -> Vectors:
        assert self._model is not None, "nobody uses a closed model"
        with torch.inference_mode():
            on_device = {name: self._to_device(value) if torch.is_tensor(value) else value for name, value in features.items()}
            vectors = self._model(on_device).get("sentence_embedding")
            if vectors is None:
                raise WrongModel("its modules end without a sentence embedding: modules.json names no pooling")
            if self._model.truncate_dim is not None:
                vectors = vectors[:, : self._model.truncate_dim]
            if self._normalizes:
                vectors = torch.nn.functional.normalize(vectors, p=2, dim=-1)
            found: Vectors = vectors.float().cpu().numpy()
            return found

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device.startswith("cuda"):
            # Only from pinned memory does the copy run beside the computer's own work.
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _use_threads(self) -> None:
        """Each time, for models may want different numbers: torch keeps one, by thread or by process as it was built."""
        torch.set_num_threads(self._options.threads)  # 1 µs

    # The model's own tokenizing: the reference at load, and the way for models that the fast one does not fit

    def _preprocess(self, texts: Sequence[str], prompt: str) -> dict[str, Any]:
        model = self._model
        assert model is not None, "nobody uses a closed model"
        with self._own_lock:
            if hasattr(model, "preprocess"):
                return dict(model.preprocess(list(texts), prompt=prompt or None))
            # sentence-transformers before its `preprocess`
            features = dict(model.tokenize([prompt + text for text in texts]))
            if prompt and self._excludes_prompt:
                features["prompt_length"] = model._get_prompt_length(prompt)
            return features

    def _tokenize_own(self, text: str, prompt: str) -> _OwnText:
        ids = _ids(self._preprocess([text], prompt))
        is_cut = False
        tokenizer = getattr(self._first, "tokenizer", None)
        if len(ids) >= self.max_tokens and isinstance(tokenizer, PreTrainedTokenizerBase):
            with self._own_lock:
                is_cut = len(tokenizer(prompt + text, truncation=False)["input_ids"]) > self.max_tokens
        return _OwnText(ids, is_cut, 0, text, prompt)

    def _plain(self) -> Any:
        """What splits and joins texts; made when somebody first asks. The lock is held."""
        if self._splitter is None:
            self._splitter = plain_tokenizer(getattr(self._first, "tokenizer", None))
        return self._splitter

    def _fast_tokenizer(self) -> FastTokenizer | None:
        """None if the model does more to its texts than the `tokenizers` object does."""
        wrapper: Any = getattr(self._first, "tokenizer", None)
        inner = getattr(wrapper, "backend_tokenizer", None)
        tensors = {name: value for name, value in self._probe.items() if torch.is_tensor(value)}
        has_types = bool(tensors.get("token_type_ids", torch.zeros(1)).any())
        if inner is None or not {"input_ids", "attention_mask"} <= tensors.keys() <= _FILLED or has_types:
            return None
        self._pad_id = wrapper.pad_token_id or 0
        self._pads_left = wrapper.padding_side == "left"
        for strips in (False, True):
            for lowers in (False, True):
                fast = FastTokenizer(
                    inner,
                    self.max_tokens,
                    truncates_left=wrapper.truncation_side == "left",
                    strips=strips,
                    lowers=lowers,
                )
                if fast.agrees(lambda text: _ids(self._preprocess([text], "")).tolist(), self.max_tokens):
                    return fast
        logger.warning("slow tokenizer used", tokenizer=type(wrapper).__name__)
        return None

    # Loading

    def _shape(self, config: ModelConfig) -> None:
        """Make the modules do what the entry says."""
        assert self._model is not None, "just loaded"
        normalizers = [name for name, module in self._model.named_children() if type(module).__name__ == "Normalize"]
        if config.normalize is False:
            for name in normalizers:
                del self._model._modules[name]
        self._normalizes = config.normalize is True and not normalizers
        self._excludes_prompt = any(getattr(module, "include_prompt", True) is False for module in self._model)

    def _cut_length(self, config: ModelConfig) -> int:
        """The model's own maximum, lowered to what it has positions for and to the entry's context_size."""
        assert self._model is not None, "just loaded"
        own = self._model.max_seq_length
        lengths = [MAX_TOKENS if own is None else min(own, MAX_TOKENS), positions(self._first), config.context_size]
        length = int(min(length for length in lengths if length is not None))
        if own != length and getattr(self._first, "tokenizer", None) is not None:
            # Some first modules have a length that cannot be set; they read everything.
            with suppress(AttributeError):
                self._model.max_seq_length = length
        return length

    def _check(self, source: ModelSource) -> int:
        """Refuse tokenizers that do not belong to the weights; returns the number of ids. Raises WrongModel."""
        tokenizer = getattr(self._first, "tokenizer", None)
        network = getattr(self._first, "auto_model", None)
        if tokenizer is None or network is None:
            return 2**31 - 1  # no table of a transformer; `wrap` refuses ids
        rows = int(network.get_input_embeddings().num_embeddings)
        check_vocabulary(tokenizer.get_vocab().values(), rows)
        assert source.directory is not None, "loaded from there"
        folder, kind = luke.transformer_folder(source.directory), getattr(network.config, "model_type", "")
        check_sentencepiece(folder, kind, lambda text: self.tokenize([text])[0].ids.tolist())
        return rows

    def _check_vectors(self) -> int:
        """Run a first text; returns the size of its vector. Raises WrongModel."""
        vectors = self._forward(self._preprocess(["probe"], ""))
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise WrongModel("it gives no finite vector for the text 'probe'")
        return int(vectors.shape[1])

    def _try_varlen(self, name: str) -> bool:
        """Whether the network's layers run without padding from now on: they must say what they say with it."""
        rows = [] if self._fast is None or self._pads_left else [row for row in self.tokenize(PROBES) if len(row)]
        if not rows or not varlen.install(getattr(self._first, "auto_model", None)):
            return False
        reason = None
        try:
            expected = self.embed(rows)
            self._is_varlen = True
            found = agreement(self.embed(rows), expected)
            if not found >= LEAST_AGREEMENT[self.dtype]:
                reason = f"agreement {found:.5f}"
        except DeviceBroken:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
        if reason is not None:
            logger.warning("padding kept", model=name, reason=reason)
            self._first.auto_model.set_attn_implementation("sdpa")
        return reason is None


def _ids(features: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The tokens of the one text that went in, without padding."""
    ids = features["input_ids"].reshape(-1) if "input_ids" in features else torch.zeros(1)
    mask = features.get("attention_mask")
    kept = ids if mask is None else ids[mask.reshape(-1) == 1]
    found: np.ndarray[Any, np.dtype[np.int32]] = kept.numpy().astype(np.int32)
    return found
