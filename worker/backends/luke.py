"""LUKE folders, seen as the XLM-R models that they are when there are no entities.

transformers 5 loads a LUKE model with a sentencepiece vocabulary (sonoisa/sentence-luke-japanese-base-lite) without a word
and gives every token the id of its neighbour. The sentencepiece file read by XLM-R's tokenizer gives the right ids, and
LUKE's weights in XLM-R's model give the same vectors: without entities every layer computes the same.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import LukeConfig

from worker.backends.checks import SENTENCEPIECE_FILE, WrongModel

# Read by LUKE's tokenizer only, or written anew.
_LEFT_OUT = frozenset(
    "config.json tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json entity_vocab.json".split()
)
_KEPT_OF_CONFIG = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size"),
    *("initializer_range", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id"),
)
# Checkpoints of LUKE with a head carry its name before every weight.
PREFIX = "luke."


def transformer_folder(folder: Path) -> Path:
    """Where the transformer's own files are: the folder, or the one that modules.json names first."""
    modules = _read_json(folder / "modules.json") or [{}]
    return folder / str(modules[0].get("path", ""))


def is_luke(folder: Path) -> bool:
    """Whether this is a LUKE model with a sentencepiece vocabulary; the English ones have another, and load well."""
    transformer = transformer_folder(folder)
    config = _read_json(transformer / "config.json") or {}
    return config.get("model_type") == "luke" and (transformer / SENTENCEPIECE_FILE).is_file()


@contextmanager
def as_xlm_roberta(folder: Path) -> Iterator[Path]:
    """A temporary folder that loads as XLM-R: links to the files of this one, with other configurations."""
    with tempfile.TemporaryDirectory(prefix="umekomi-luke-") as made:
        view = Path(made)
        _link(folder, view)
        inside = transformer_folder(folder).relative_to(folder)
        if inside != Path():
            (view / inside).unlink()
            (view / inside).mkdir(parents=True)
            _link(folder / inside, view / inside)
        _rewrite(folder / inside, view / inside)
        yield view


def check_weights(folder: Path, model: torch.nn.Module) -> None:
    """Every weight that the vectors come from is in the checkpoint; a missing one would be random. Raises WrongModel."""
    found = {name.removeprefix(PREFIX) for name in _checkpoint(transformer_folder(folder))}
    # The pooler reads a finished sequence; no sentence embedding passes through it.
    missing = [name for name, _ in model.named_parameters() if name not in found and not name.startswith("pooler.")]
    if missing:
        raise WrongModel(f"the checkpoint lacks {len(missing)} weights, such as {missing[0]}")


def _link(folder: Path, view: Path) -> None:
    for entry in folder.iterdir():
        (view / entry.name).symlink_to(entry.resolve())


def _rewrite(transformer: Path, view: Path) -> None:
    for name in _LEFT_OUT:
        (view / name).unlink(missing_ok=True)
    config = LukeConfig.from_dict(_read_json(transformer / "config.json")).to_dict()
    kept = {name: config[name] for name in _KEPT_OF_CONFIG if name in config}
    kept |= {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"]}
    (view / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    tokenizer: dict[str, Any] = {"tokenizer_class": "XLMRobertaTokenizer"}
    length = (_read_json(transformer / "tokenizer_config.json") or {}).get("model_max_length")
    if length is not None:
        tokenizer["model_max_length"] = length
    (view / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def _checkpoint(transformer: Path) -> Iterable[str]:
    """The names of the weights."""
    names: set[str] = set()
    for file in transformer.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            names.update(weights.keys())
    if not names:
        for file in transformer.glob("pytorch_model*.bin"):
            names.update(torch.load(file, map_location="meta", weights_only=True))
    return names


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
