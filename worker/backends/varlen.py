"""Torch's forward pass without padding: the layers of a network run on one matrix of all real tokens.

For networks whose layers lie in one `encoder` and call transformers' attention interface. The embeddings, which know positions,
and whatever comes behind the layers get the padded batch as always; attention is torch's for texts of various lengths.
On a CPU, where torch has none, each text is attended to by itself: right, and slow, so only tests use it there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

# Every token of a text sees every other one, at 1/sqrt(head size), and positions are all in the embeddings.
_KINDS = {"bert", "roberta", "xlm-roberta"}
_NAME = "umekomi_varlen"
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the tokens of a batch are. A slot is a place in it, with padding; a row one in the matrix without."""

    slot_of_row: torch.Tensor  # int64 [tokens]
    row_of_slot: torch.Tensor  # int64 [texts x longest]; of padding the last row of its text
    ends: torch.Tensor  # int32 [texts + 1], from 0: the rows of the texts
    lengths: Sequence[int]


class _Current(threading.local):
    places: _Places | None = None


_current = _Current()


def is_usable(device: str, dtype: torch.dtype) -> bool:
    """Whether torch has such an attention there: on CUDA, in half precision, since 2.10."""
    if not device.startswith("cuda") or dtype not in _HALF:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def install(network: Any) -> bool:
    """Let a network run batches given to `without_padding` so, and all others as before; False if it is of another kind."""
    encoder = getattr(network, "encoder", None)
    config = getattr(network, "config", None)
    if getattr(config, "model_type", None) not in _KINDS or encoder is None or getattr(config, "is_decoder", False):
        return False
    if getattr(config, "_attn_implementation", None) != "sdpa":
        return False  # somebody chose another one
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _mask)
    network.set_attn_implementation(_NAME)
    encoder.register_forward_pre_hook(_enter, with_kwargs=True)
    encoder.register_forward_hook(_leave)
    return True


@contextmanager
def without_padding(lengths: Sequence[int], device: str) -> Iterator[None]:
    """Inside, this thread's forward pass is of texts with so many tokens, padded on the right to the longest."""
    _current.places = _places(lengths, device)
    try:
        yield
    finally:
        _current.places = None


def _places(lengths: Sequence[int], device: str) -> _Places:
    ends = np.concatenate([[0], np.cumsum(lengths)])
    slots = np.arange(max(lengths))
    is_token = slots < np.asarray(lengths)[:, None]
    row_of_slot = ends[:-1, None] + np.minimum(slots, np.asarray(lengths)[:, None] - 1)
    return _Places(
        _tensor(np.flatnonzero(is_token), np.int64, device),
        _tensor(row_of_slot.reshape(-1), np.int64, device),
        _tensor(ends, np.int32, device),
        lengths,
    )


def _tensor(values: np.ndarray[Any, Any], dtype: Any, device: str) -> torch.Tensor:
    tensor = torch.from_numpy(values.astype(dtype))
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor.to(device)


def _enter(_encoder: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if (places := _current.places) is None:
        return None
    hidden = arguments[0]
    return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, places.slot_of_row)[None], *arguments[1:]), named


def _leave(_encoder: Any, _arguments: tuple[Any, ...], output: Any) -> Any:
    if (places := _current.places) is None:
        return None
    rows = output.last_hidden_state[0]
    output.last_hidden_state = rows.index_select(0, places.row_of_slot).reshape(len(places.lengths), -1, rows.shape[-1])
    return output


def _mask(*arguments: Any, **named: Any) -> torch.Tensor | None:
    return None if _current.places is not None else sdpa_mask(*arguments, **named)


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **named: Any
) -> tuple[torch.Tensor, None]:
    """Query, key and value: [1, heads, tokens, head size] without padding; answers [1, tokens, heads, head size]."""
    if (places := _current.places) is None:
        found, _ = sdpa_attention_forward(module, query, key, value, mask, **named)
        return found, None
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        longest = max(places.lengths)
        queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
        attended = varlen_attn(queries, keys, values, places.ends, places.ends, longest, longest)
        assert isinstance(attended, torch.Tensor), "nothing else was asked for"
        return attended[None], None
    texts = zip(*(torch.split(part, list(places.lengths), dim=2) for part in (query, key, value)), strict=True)
    each = [torch.nn.functional.scaled_dot_product_attention(*text) for text in texts]
    return torch.cat(each, dim=2).transpose(1, 2), None
