"""CrossEncoderBackend: the scores of `CrossEncoder.predict`, in batches that somebody else put together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from shared.errors import InvalidParameter
from shared.interactive import Tokens
from shared.logs import get_logger
from shared.models import ModelConfig, ModelSource
from shared.presence import ModelKind
from worker.backends import LoadOptions, TokenizedText
from worker.backends.checks import WrongModel, check_sentencepiece, check_vocabulary
from worker.backends.failures import told_apart
from worker.backends.loading import choose_dtype, positions
from worker.backends.memory import give_back
from worker.backends.precision import choose, warn
from worker.backends.splitting import join, plain_tokenizer, split
from worker.backends.tokenizing import FastTokenizer

logger = get_logger(__name__)

# Where neither the model nor its tokenizer says how much it reads.
MAX_TOKENS = 8192
QUERIES_KEPT = 32
# What our batches fill; a model that wants more has them made by its own tokenizer.
_FILLED = {"input_ids", "attention_mask", "token_type_ids"}
# Where a tokenizer might treat pairs differently than its wrapper: nothing, both too long, either too long.
_LONG = "the quick brown fox, 夕飯はお肉です。 "
_PROBES = (("query", "document"), ("", "a"), ("a", ""), ("Ünïcödé 夕飯は?", "Hello, World!  [SEP] </s>"))

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Types = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class _Pair(TokenizedText):
    """A query and a document, as they go into the model together."""

    types: Types | None = None  # int32 [tokens]: 0 the query's, 1 the document's
    texts: tuple[str, str] | None = None  # of a model that tokenizes by itself, once more, in its batch


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens before, between and behind the two texts of a pair; each side's type of token."""

    before: list[int]
    between: list[int]
    behind: list[int]
    document_type: int  # with what is between and behind as the tokenizer has it
    between_types: list[int]

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.behind)


class CrossEncoderBackend:
    """One CrossEncoder with one label. Thread-safe: forward passes run side by side."""

    kind: ModelKind = "rerank"
    engine = "torch"
    # The score, and what it was before the model's activation.
    dimensions = 2

    def __init__(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> None:
        transformers_logging.disable_progress_bar()
        self._options = options
        self._own_lock = threading.Lock()  # the Hugging Face wrapper changes its tokenizer while it works
        torch.set_num_threads(options.threads)
        if config.engine == "onnx":
            logger.warning("torch serves instead of ONNX", model=config.name, reason="rerankers are torch's")
        elif options.device == "cpu" and config.engine == "auto":
            logger.info("torch serves", model=config.name, reason="rerankers are torch's")
        dtype, reason = choose_dtype(config, options.device), choose(config, options.device)[1]
        if reason is not None:
            warn(config, str(dtype).removeprefix("torch."), reason)
        assert source.directory is not None, "models of a hub were fetched before"
        self._model: Any = CrossEncoder(
            str(source.directory),
            device=options.device,
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": dtype},
        )
        self._model.eval()
        if self._model.num_labels != 1:
            raise WrongModel(f"it gives {self._model.num_labels} labels for a pair, and a reranker gives one score")
        self.device, self.dtype = options.device, str(dtype).removeprefix("torch.")
        self.prompts: Mapping[str, str] = {}
        self.default_prompt_name = None
        self._wrapper: Any = self._model.tokenizer
        self._network: Any = self._model.model
        self.max_tokens = self._cut_length(config)
        self.vocabulary = int(self._network.get_input_embeddings().num_embeddings)
        check_vocabulary(self._wrapper.get_vocab().values(), self.vocabulary)
        kind = getattr(self._network.config, "model_type", "")
        check_sentencepiece(source.directory, kind, lambda text: self._wrapper(text)["input_ids"])
        self._pad_id = self._wrapper.pad_token_id or 0
        self._pads_left = self._wrapper.padding_side == "left"
        self._splitter: Any = plain_tokenizer(self._wrapper)
        self._fast: FastTokenizer | None = None
        if isinstance(self._splitter, Tokenizer):
            is_left = self._wrapper.truncation_side == "left"
            self._fast = FastTokenizer(self._splitter, self.max_tokens, truncates_left=is_left)
        self._wanted = {name for name, value in self._preprocess([("a", "b")]).items() if torch.is_tensor(value)}
        # The slices of one request have one query, which may be long.
        self._query: Callable[[str], tuple[int, list[int]]] = lru_cache(QUERIES_KEPT)(self._encode_query)
        self._template = self._read_template()
        if self._template is not None and not self._agrees():
            logger.warning("slow tokenizer used", tokenizer=type(self._wrapper).__name__)
            self._template = None
        if not np.isfinite(self.embed(self.tokenize(["document"], "query"))).all():
            raise WrongModel("it gives no finite score for the pair 'query', 'document'")

    # The contract

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """See Backend: pairs of the query, which is the prompt, and each text."""
        for text in (prompt, *texts):
            text.encode()  # the tokenizer does not say clearly that it is half a character
        if self._template is None:
            return [self._tokenize_own(prompt, text) for text in texts]
        tokens, query = self._query(prompt)
        # Enough of each to tell which of the two is longer.
        return [self._pair(tokens, query, document) for document in self._encode(texts, max(tokens, self.max_tokens))]

    def wrap(self, token_ids: Sequence[int]) -> TokenizedText:
        """See Backend. Always raises InvalidParameter: a pair is two texts."""
        del token_ids
        raise InvalidParameter("a reranker takes texts, not token ids", param="input")

    def split(self, text: str, *, special: bool) -> Tokens:
        """See Backend: of a single text."""
        with self._own_lock:
            return split(self._splitter, text, special=special)

    def join(self, token_ids: Sequence[int], *, special: bool) -> str:
        """See Backend."""
        with self._own_lock:
            return join(self._splitter, token_ids, special=special)

    def embed(self, rows: Sequence[TokenizedText]) -> Vectors:
        """See Backend."""
        if not rows:
            return np.zeros((0, self.dimensions), np.float32)
        torch.set_num_threads(self._options.threads)
        with told_apart(self.device):
            return self._forward(self._fill(rows))

    def close(self) -> None:
        """See Backend."""
        self._model = self._network = self._wrapper = self._splitter = self._fast = None
        self._query = self._encode_query
        give_back(self.device)

    # Forward

    def _fill(self, rows: Sequence[TokenizedText]) -> dict[str, Any]:
        own = [row.texts for row in rows if isinstance(row, _Pair) and row.texts is not None]
        if own:
            return self._preprocess(own)
        width = max(map(len, rows))
        ids = np.full((len(rows), width), self._pad_id, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for index, row in enumerate(rows):
            assert isinstance(row, _Pair), "made by `tokenize`"
            assert row.types is not None, "made of two encodings"
            part = slice(width - len(row), width) if self._pads_left else slice(0, len(row))
            ids[index, part], mask[index, part], types[index, part] = row.ids, 1, row.types
        filled = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: torch.from_numpy(filled[name]) for name in self._wanted}

    def _forward(self, features: dict[str, Any]) -> Vectors:
        with torch.inference_mode():
            on_device = {
                name: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value
                for name, value in features.items()
            }
            if hasattr(self._model, "preprocess"):
                raw = self._model(on_device)["scores"]
            else:  # sentence-transformers 5
                raw = self._network(**on_device, return_dict=True).logits
            raw = raw.float().reshape(-1, 1)
            scores = self._model.activation_fn(raw)
            found: Vectors = torch.cat([scores.reshape(-1, 1), raw], dim=1).cpu().numpy()
            return found

    # Tokenizing

    def _cut_length(self, config: ModelConfig) -> int:
        own = getattr(self._model, "max_seq_length", None) or getattr(self._wrapper, "model_max_length", None)
        lengths = (MAX_TOKENS, own, positions(self._network), config.context_size)
        return int(min(length for length in lengths if length is not None))

    def _preprocess(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """As `CrossEncoder.predict` makes a batch, cut where this model is cut."""
        queries, documents = [query for query, _ in pairs], [document for _, document in pairs]
        with self._own_lock:
            made = self._wrapper(
                queries,
                documents,
                padding=True,
                truncation="longest_first",
                max_length=self.max_tokens,
                return_tensors="pt",
            )
        return dict(made)

    def _read_template(self) -> _Template | None:
        """From a pair; None if the model wants more than we fill, or its pairs are of another form."""
        if self._fast is None or not {"input_ids", "attention_mask"} <= self._wanted <= _FILLED:
            return None
        made = self._splitter.encode("a", "a")
        (body,) = self._encode(["a"], 1)
        texts = [place for place, is_special in enumerate(made.special_tokens_mask) if not is_special]
        first, second = texts[: len(body)], texts[len(body) :]
        if len(texts) != 2 * len(body) or not body:
            return None
        between = slice(first[-1] + 1, second[0])
        return _Template(
            before=made.ids[: first[0]],
            between=made.ids[between],
            behind=made.ids[second[-1] + 1 :],
            document_type=made.type_ids[second[0]],
            between_types=made.type_ids[between],
        )

    def _agrees(self) -> bool:
        """Whether our pairs are those of the wrapper, over-long ones among them."""
        long = _LONG * (self.max_tokens // 4 + 2)
        for query, document in (*_PROBES, (long, long), (long + long, long), ("short", long), (long, "short")):
            (ours,) = self.tokenize([document], query)
            theirs = self._preprocess([(query, document)])
            types = theirs.get("token_type_ids")
            assert isinstance(ours, _Pair), "made by `tokenize`"
            if ours.ids.tolist() != theirs["input_ids"][0].tolist():
                return False
            if types is not None and ours.types is not None and ours.types.tolist() != types[0].tolist():
                return False
        return True

    def _encode_query(self, text: str) -> tuple[int, list[int]]:
        """How many tokens it has, and as many of them as a pair may hold."""
        (ids,) = self._encode([text], len(text))
        return len(ids), ids[-self.max_tokens :] if self._wrapper.truncation_side == "left" else ids[: self.max_tokens]

    def _encode(self, texts: Sequence[str], tokens: int) -> list[list[int]]:
        assert self._fast is not None, "asked for only where there is one"
        return self._fast.bodies(texts, tokens)

    def _pair(self, query_tokens: int, query: list[int], document: list[int]) -> _Pair:
        template = self._template
        assert template is not None, "asked for only where there is one"
        room = max(0, self.max_tokens - len(template))
        of_query, of_document = _shares(query_tokens, len(document), room)
        is_cut = of_query + of_document < query_tokens + len(document)
        if self._wrapper.truncation_side == "left":
            query, document = query[len(query) - of_query :], document[len(document) - of_document :]
        else:
            query, document = query[:of_query], document[:of_document]
        ids = [*template.before, *query, *template.between, *document, *template.behind]
        types = np.full(len(ids), template.document_type, np.int32)
        begin = len(template.before) + len(query)
        types[:begin] = 0
        types[begin : begin + len(template.between)] = template.between_types
        return _Pair(np.array(ids, np.int32), is_cut, 0, types)

    def _tokenize_own(self, query: str, document: str) -> _Pair:
        ids = self._preprocess([(query, document)])["input_ids"][0].numpy().astype(np.int32)
        is_cut = False
        if len(ids) >= self.max_tokens:
            with self._own_lock:
                # As a batch: alone, an empty document counts as none.
                whole = self._wrapper([query], [document], truncation=False, verbose=False)["input_ids"][0]
            is_cut = len(whole) > self.max_tokens
        return _Pair(ids, is_cut, 0, None, (query, document))


def _shares(query: int, document: int, room: int) -> tuple[int, int]:
    """Tokens that are left of each: the longer one gives way, and where both must, it gets the odd one."""
    if query + document <= room:
        return query, document
    shorter = min(query, document)
    if shorter > room // 2:
        shorter = room // 2
    return (room - shorter, shorter) if query > document else (shorter, room - shorter)
