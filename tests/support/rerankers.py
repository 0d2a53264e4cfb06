"""Small CrossEncoders with random weights, in the file layouts of the repositories that people serve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, XLMRobertaConfig, XLMRobertaForSequenceClassification

from tests.support.models import MAX_TOKENS, POSITIONS, SHAPE, build_bert, build_xlm_roberta


def build_cross_encoder(folder: Path, *, layout: str = "bert", activation: str | None = None, labels: int = 1) -> Path:
    """ms-marco-MiniLM (bert: two types of tokens) or bge-reranker-v2-m3 (xlm-r): a classifier in a plain folder.

    `activation` is what newer ones name themselves, such as torch.nn.modules.linear.Identity.
    """
    built = build_bert(folder) if layout == "bert" else build_xlm_roberta(folder, fast=True, modules=False)
    for entry in ("1_Pooling", "2_Normalize"):
        shutil.rmtree(built / entry, ignore_errors=True)
    for entry in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (built / entry).unlink(missing_ok=True)
    rows = json.loads((built / "config.json").read_text())["vocab_size"]
    torch.manual_seed(5)
    settled: Any
    if layout == "bert":
        settled = BertConfig(vocab_size=rows, max_position_embeddings=MAX_TOKENS, num_labels=labels, **SHAPE)
        BertForSequenceClassification(settled).save_pretrained(built)
    else:
        settled = XLMRobertaConfig(vocab_size=rows, pad_token_id=1, num_labels=labels, **SHAPE, **POSITIONS)
        XLMRobertaForSequenceClassification(settled).save_pretrained(built)
    if activation is not None:
        says = json.loads((built / "config.json").read_text())
        says["sentence_transformers"] = {"activation_fn": activation, "version": "5.0.0"}
        (built / "config.json").write_text(json.dumps(says))
    return built


RERANKERS: dict[str, Callable[[Path], Path]] = {
    "cross-encoder": build_cross_encoder,
    "cross-encoder-identity": lambda folder: build_cross_encoder(folder, activation="torch.nn.modules.linear.Identity"),
    "cross-encoder-xlm-r": lambda folder: build_cross_encoder(folder, layout="xlm-r"),
}
