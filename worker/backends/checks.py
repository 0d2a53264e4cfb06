"""What is checked of every model when it is loaded: one that would give wrong vectors is refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from shared.models import ModelConfig

# Tokenizers of the XLM-R kind keep fairseq's order: these four first, then the pieces of the file from the fourth on.
FAIRSEQ_OFFSET = 1
FAIRSEQ_UNKNOWN = 3
SENTENCEPIECE_FILE = "sentencepiece.bpe.model"
# Model types that keep the file in another order.
_OTHER_ORDER = {"camembert"}
# In lower case: some models lower their texts first.
_SENTENCES = (
    "夕飯はお肉です。",
    "今日は、いい天気ですね。",
    "query: how much protein should a female eat",
    "the quick brown fox jumps over the lazy dog.",
    "ünïcödé 2024",
)


class WrongModel(Exception):
    """The model's files contradict each other, or say too little; it is not served."""


def check_vocabulary(ids: Iterable[int], rows: int) -> None:
    """Every id that the tokenizer can give has its row in the embedding table. Raises WrongModel."""
    highest = max(ids, default=-1)
    if highest >= rows:
        raise WrongModel(f"the tokenizer gives ids up to {highest}, but the embedding table has {rows} rows")


def check_sentencepiece(folder: Path, model_type: str, tokenize: Callable[[str], Sequence[int]]) -> None:
    """Where an XLM-R style sentencepiece file lies in the folder, the tokenizer's ids are the file's. Raises WrongModel."""
    file = folder / SENTENCEPIECE_FILE
    if not file.is_file() or model_type in _OTHER_ORDER:
        return
    pieces = SentencePieceProcessor(model_file=str(file))
    for sentence in _SENTENCES:
        found = list(tokenize(sentence))[1:-1]
        # A model that reads little got the beginning only.
        expected = fairseq_ids(pieces, sentence)[: len(found)]
        if found != expected:
            raise WrongModel(
                f"the tokenizer's ids are not those of {SENTENCEPIECE_FILE}: {found[:8]} instead of {expected[:8]} …"
            )


def merge_prompts(own: Mapping[str, str], own_default: str | None, config: ModelConfig) -> tuple[dict[str, str], str | None]:
    """The model's prompts with those of its entry, and the name of the one that it uses by itself. Raises WrongModel."""
    prompts = {**own, **config.prompts}
    default = config.default_prompt_name or own_default
    if default is not None and default not in prompts:
        raise WrongModel(f"default_prompt_name: it has no prompt named {default!r}")
    return prompts, default


def fairseq_ids(pieces: SentencePieceProcessor, text: str) -> list[int]:
    """A text's ids in the order of fairseq, without special tokens."""
    unknown = pieces.unk_id()
    return [FAIRSEQ_UNKNOWN if piece == unknown else piece + FAIRSEQ_OFFSET for piece in pieces.encode(text)]
