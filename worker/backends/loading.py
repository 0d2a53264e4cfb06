"""How a SentenceTransformer comes to memory: from a folder or a hub, with the type and the pooling that its entry wants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import is_sentence_transformer_model
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from shared.logs import get_logger
from shared.models import ModelConfig, ModelSource
from worker.backends import luke

logger = get_logger(__name__)

# Of a hub's repository: the same weights for other libraries.
_OTHER_FORMATS = ["*.onnx", "onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "coreml/*"]


def load(config: ModelConfig, source: ModelSource, device: str, dtype: torch.dtype) -> SentenceTransformer:
    """The model as its files say, LUKE mended. Raises whatever the libraries do, and WrongModel."""
    arguments: dict[str, Any] = {
        "device": device,
        "trust_remote_code": config.trust_remote_code,
        "model_kwargs": {"dtype": dtype},
    }
    directory = source.directory
    if directory is None:
        assert source.hub_id is not None, "a source is one or the other"
        settled = PretrainedConfig.get_config_dict(source.hub_id, revision=config.revision)[0]
        if settled.get("model_type") != "luke":
            model = SentenceTransformer(source.hub_id, revision=config.revision, **arguments)
            has_modules = is_sentence_transformer_model(source.hub_id, revision=config.revision)
            return _pool(model, config, has_modules=has_modules)
        directory = Path(snapshot_download(source.hub_id, revision=config.revision, ignore_patterns=_OTHER_FORMATS))
    has_modules = (directory / "modules.json").is_file()
    if not luke.is_luke(directory):
        return _pool(SentenceTransformer(str(directory), local_files_only=True, **arguments), config, has_modules=has_modules)
    arguments["model_kwargs"]["key_mapping"] = {f"^{re.escape(luke.PREFIX)}": ""}
    with luke.as_xlm_roberta(directory) as view, _quiet():
        model = SentenceTransformer(str(view), local_files_only=True, **arguments)
    luke.check_weights(directory, model[0].auto_model)
    return _pool(model, config, has_modules=has_modules)


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


def choose_dtype(config: ModelConfig, device: str) -> torch.dtype:
    """The type of the weights: what the entry wants on a GPU, float32 on a CPU whatever the files say."""
    wanted = config.dtype if config.dtype != "auto" else "float16" if config.f16 else "float32"
    if device == "cpu" and wanted != "float32":
        logger.warning("half precision left out", model=config.name, reason="it is slower on a CPU, and less exact")
        wanted = "float32"
    found = getattr(torch, wanted)
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


def cached_folder(source: ModelSource, config: ModelConfig) -> Path | None:
    """The folder of a hub's model on this machine, if it is there."""
    assert source.hub_id is not None, "a source is one or the other"
    found = try_to_load_from_cache(source.hub_id, "config.json", revision=config.revision)
    return Path(found).parent if isinstance(found, str) else None
