"""Small models with random weights, in the file layouts of the repositories that people serve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig, BertModel, LukeConfig, LukeModel, XLMRobertaConfig, XLMRobertaModel
from transformers import XLMRobertaTokenizerFast as XLMRobertaTokenizer

# What the vocabularies are trained on: enough for some hundred pieces of two scripts.
SENTENCES = (
    "夕飯はお肉です。",
    "今日は、いい天気ですね。散歩に行きましょう。",
    "日本語の文章をベクトルに埋め込みます。",
    "東京都は日本の首都であり、人口が最も多い都市です。",
    "猫はこたつで丸くなり、犬は庭を駆け回る。",
    "query: how much protein should a female eat",
    "passage: as a general guideline, the average requirement of protein for women is 46 grams per day",
    "The quick brown fox jumps over the lazy dog.",
    "Embeddings of sentences and paragraphs are vectors of numbers.",
    "A question is answered while a corpus runs at night.",
    "Ünïcödé wörds äre hère too, 2024.",
)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.5,  # far from zero, so that texts differ
}
MAX_TOKENS = 64
# RoBERTa's kind leaves the first two positions free.
POSITIONS = {"max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


def train_sentencepiece(folder: Path) -> int:
    """Write sentencepiece.bpe.model as XLM-R's is made; returns its number of pieces."""
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / "trained"),
        vocab_size=300,
        hard_vocab_limit=False,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    pieces = len((folder / "trained.vocab").read_text(encoding="utf-8").splitlines())
    (folder / "trained.model").rename(folder / "sentencepiece.bpe.model")
    (folder / "trained.vocab").unlink()
    return pieces


def build_luke(folder: Path, *, modules: bool = False) -> Path:
    """sonoisa/sentence-luke-japanese-base-lite: a sentencepiece file, entities, a checkpoint of torch's.

    Two added tokens have no row in the embedding table.
    """
    folder.mkdir(parents=True)
    rows = train_sentencepiece(folder) + 2  # fairseq's offset, <mask>
    torch.manual_seed(1)
    config = LukeConfig(vocab_size=rows, entity_vocab_size=4, entity_emb_size=8, **SHAPE, **POSITIONS)
    torch.save(LukeModel(config).state_dict(), folder / "pytorch_model.bin")
    config.architectures = ["LukeModel"]
    config.save_pretrained(folder)
    _write(folder / "entity_vocab.json", {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3})
    _write(folder / "added_tokens.json", {"<ent>": rows, "<ent2>": rows + 1})
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>"}
    special |= {"cls_token": "<s>", "mask_token": "<mask>"}
    _write(folder / "special_tokens_map.json", special | {"additional_special_tokens": ["<ent>", "<ent2>"]})
    _write(
        folder / "tokenizer_config.json",
        special | {"tokenizer_class": "MLukeTokenizer", "model_max_length": MAX_TOKENS, "task": None},
    )
    if modules:
        _write_modules(folder, size=32, normalize=False, max_tokens=MAX_TOKENS)
    return folder


def build_xlm_roberta(
    folder: Path,
    *,
    fast: bool,
    modules: bool = True,
    normalize: bool = False,
    prompts: dict[str, str] | None = None,
) -> Path:
    """multilingual-e5 (normalize, fast) or stsb-xlm-r: a sentencepiece file, and tokenizer.json if `fast`."""
    folder.mkdir(parents=True)
    rows = train_sentencepiece(folder) + 2
    torch.manual_seed(2)
    XLMRobertaModel(XLMRobertaConfig(vocab_size=rows, pad_token_id=1, **SHAPE, **POSITIONS)).save_pretrained(folder)
    _xlm_roberta_tokenizer(folder, fast=fast)
    if modules:
        _write_modules(folder, size=32, normalize=normalize, max_tokens=MAX_TOKENS, prompts=prompts)
    return folder


def build_e5(folder: Path) -> Path:
    """intfloat/multilingual-e5: unit length, prompts."""
    return build_xlm_roberta(folder, fast=True, normalize=True, prompts={"query": "query: ", "passage": "passage: "})


def build_paraphrase_multilingual(folder: Path) -> Path:
    """paraphrase-multilingual-MiniLM-L12-v2: a BERT that reads XLM-R's tokens; mean pooling, cut at 32, no unit length."""
    folder.mkdir(parents=True)
    rows = train_sentencepiece(folder) + 2
    torch.manual_seed(3)
    BertModel(BertConfig(vocab_size=rows, max_position_embeddings=MAX_TOKENS, **SHAPE)).save_pretrained(folder)
    _xlm_roberta_tokenizer(folder, fast=True)
    _write_modules(folder, size=32, normalize=False, max_tokens=32)
    return folder


def build_bert(folder: Path, *, pooling: str = "cls", include_prompt: bool = True) -> Path:
    """A BERT with a WordPiece vocabulary of its own, cased differently than its texts."""
    folder.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.train_from_iterator(SENTENCES, WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda token: token[1])
    (folder / "vocab.txt").write_text("\n".join(token for token, _ in vocabulary), encoding="utf-8")
    torch.manual_seed(4)
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=MAX_TOKENS, **SHAPE)).save_pretrained(folder)
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    _write_modules(
        folder,
        size=32,
        normalize=True,
        max_tokens=MAX_TOKENS,
        pooling=pooling,
        include_prompt=include_prompt,
        prompts={"query": "Represent the question: "},
    )
    return folder


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "luke": build_luke,
    "luke-with-modules": lambda folder: build_luke(folder, modules=True),
    "e5": build_e5,
    "xlm-r-slow": lambda folder: build_xlm_roberta(folder, fast=False),
    "xlm-r-without-modules": lambda folder: build_xlm_roberta(folder, fast=True, modules=False),
    "paraphrase-multilingual": build_paraphrase_multilingual,
    "bert": build_bert,
    "bert-without-prompt": lambda folder: build_bert(folder, pooling="mean", include_prompt=False),
}


def copy_of(folder: Path, copy: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(folder, copy))


def _xlm_roberta_tokenizer(folder: Path, *, fast: bool) -> None:
    described = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": MAX_TOKENS}
    _write(folder / "tokenizer_config.json", described)
    if fast:
        XLMRobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
        _write(folder / "tokenizer_config.json", described)


def _write_modules(
    folder: Path,
    *,
    size: int,
    normalize: bool,
    max_tokens: int,
    pooling: str = "mean",
    include_prompt: bool = True,
    prompts: dict[str, str] | None = None,
) -> None:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] if normalize else [])
    _write(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    modes = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("cls_token", "mean_tokens", "max_tokens")}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **modes, "include_prompt": include_prompt})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    if prompts:
        _write(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
