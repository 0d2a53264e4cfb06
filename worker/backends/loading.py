"""How a SentenceTransformer comes to memory: from its folder, with the type and the pooling that its entry wants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from shared.logs import get_logger
from shared.models import ModelConfig, ModelSource
from worker.backends import luke
from worker.backends.precision import choose

logger = get_logger(__name__)


def load(config: ModelConfig, source: ModelSource, device: str, dtype: torch.dtype) -> SentenceTransformer:
    """The model as its files say, LUKE mended. Raises whatever the libraries do, and WrongModel."""
    arguments: dict[str, Any] = {
        "device": device,
        "trust_remote_code": config.trust_remote_code,
        "model_kwargs": {"dtype": dtype},
    }
    directory = source.directory
    assert directory is not None, "models of a hub were fetched before"
    has_modules = (directory / "modules.json").is_file()
    if not luke.is_luke(directory):
        model = SentenceTransformer(str(directory), local_files_only=True, **arguments)
        return _widen(_pool(model, config, has_modules=has_modules), dtype)
    arguments["model_kwargs"]["key_mapping"] = {f"^{re.escape(luke.PREFIX)}": ""}
    with luke.as_xlm_roberta(directory) as view, _quiet():
        model = SentenceTransformer(str(view), local_files_only=True, **arguments)
    luke.check_weights(directory, model[0].auto_model)
    return _widen(_pool(model, config, has_modules=has_modules), dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """LUKE's weights for entities are left over, and transformers would print a table of them."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _pool(model: SentenceTransformer, config: ModelConfig, *, has_modules: bool) -> SentenceTransformer:
    """The pooling that the entry names, where the model itself names none."""
    model.eval()
    pooling = next((module for module in model if type(module).__name__ == "Pooling"), None)
    if has_modules or pooling is None:
        if config.pooling is not None:
            logger.warning("pooling ignored", model=config.name, reason="the model's modules.json says how it pools")
        return model
    if config.pooling is not None:
        size = model[0].auto_model.config.hidden_size
        model[1] = type(pooling)(size, pooling_mode=config.pooling)
    logger.info("model names no pooling", model=config.name, taken=config.pooling or "mean")
    return model


def _widen(model: SentenceTransformer, dtype: torch.dtype) -> SentenceTransformer:
    """What comes behind the network is float32, also where that is in half precision.

    A sum over thousands of tokens leaves float16's range, and a vector in it has unit length to three digits only.
    """
    if dtype is not torch.float32:
        for module in list(model)[1:]:
            module.float()
        model[0].register_forward_hook(_as_float32)
    return model


def _as_float32(_module: torch.nn.Module, _arguments: Any, features: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value for name, value in features.items()
    }


def choose_dtype(config: ModelConfig, device: str, *, is_checked: bool = False) -> torch.dtype:
    """The type of torch's weights, as precision has it."""
    found = getattr(torch, choose(config, device, is_checked=is_checked)[0])
    assert isinstance(found, torch.dtype), "ModelConfig names torch's types"
    return found


def positions(first: torch.nn.Module) -> int | None:
    """Most tokens that a model with a table of positions can read; models like RoBERTa begin behind the pad's row."""
    for module in first.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            pad = getattr(module, "padding_idx", None)
            return int(table.num_embeddings) - (pad + 1 if isinstance(pad, int) else 0)
    return None
