"""How a model's tokenizer splits whole texts, and joins ids again: for those who count, cut and look, not for the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from shared.errors import InvalidParameter
from shared.interactive import Tokens

if TYPE_CHECKING:
    # An ONNX engine does without transformers, whose import takes seconds.
    from transformers import PreTrainedTokenizerBase


def plain_tokenizer(tokenizer: Any) -> Tokenizer | PreTrainedTokenizerBase:
    """The `tokenizers` object of a wrapper, as a copy that cuts and pads nothing; the wrapper itself where it has none.

    Raises InvalidParameter if it is no tokenizer at all.
    """
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(inner, Tokenizer):
        copy = Tokenizer.from_str(inner.to_str())
        copy.no_truncation()
        copy.no_padding()
        copy.encode_special_tokens = inner.encode_special_tokens
        return copy
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        wrapper: PreTrainedTokenizerBase = tokenizer
        return wrapper
    raise InvalidParameter("this model does not tell how it splits texts", param="model")


def split(tokenizer: Tokenizer | PreTrainedTokenizerBase, text: str, *, special: bool) -> Tokens:
    """All tokens of a text. Raises UnicodeEncodeError for a lone surrogate."""
    text.encode()  # neither of the two says so clearly
    if isinstance(tokenizer, Tokenizer):
        # As a batch, because that lets go of Python's lock: a large text takes half a second.
        (encoding,) = tokenizer.encode_batch([text], add_special_tokens=special)
        is_special = encoding.special_tokens_mask
        spans = [None if added else span for span, added in zip(encoding.offsets, is_special, strict=True)]
        # Not the encoding's own, which has unknown words as they stand in the text.
        return Tokens(encoding.ids, [tokenizer.id_to_token(token_id) or "" for token_id in encoding.ids], spans)
    ids: list[int] = tokenizer(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"]
    # A tokenizer in Python does not know where its tokens come from.
    return Tokens(ids, tokenizer.convert_ids_to_tokens(ids), [None] * len(ids))


def split_as_read(tokenizer: Tokenizer | PreTrainedTokenizerBase, text: str, readable: str, *, special: bool) -> Tokens:
    """`readable` is what the model makes of the text before it splits it; the spans are of the text itself."""
    tokens = split(tokenizer, readable, special=special)
    # Only a text that was stripped begins later than its own.
    ahead = 0 if len(readable) == len(text) else len(text) - len(text.lstrip())
    if not ahead:
        return tokens
    spans = [None if span is None else (span[0] + ahead, span[1] + ahead) for span in tokens.spans]
    return Tokens(tokens.ids, tokens.pieces, spans)


def join(tokenizer: Tokenizer | PreTrainedTokenizerBase, token_ids: Sequence[int], *, special: bool) -> str:
    """The text of ids."""
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=not special)
    return text
