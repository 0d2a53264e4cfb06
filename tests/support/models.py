"""Small models with random weights, in the file layouts of the repositories that people serve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Dense
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    LukeConfig,
    LukeModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers import XLMRobertaTokenizerFast as XLMRobertaTokenizer

from worker.backends.checks import fairseq_ids

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
    tokens = _word_pieces(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], unknown="[UNK]")
    torch.manual_seed(4)
    BertModel(BertConfig(vocab_size=tokens, max_position_embeddings=MAX_TOKENS, **SHAPE)).save_pretrained(folder)
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


def build_mpnet(folder: Path) -> Path:
    """all-mpnet-base-v2: relative positions, no token types, unit length."""
    folder.mkdir(parents=True)
    tokens = _word_pieces(folder, ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"], unknown="[UNK]")
    torch.manual_seed(5)
    config = MPNetConfig(vocab_size=tokens, **SHAPE, max_position_embeddings=MAX_TOKENS + 2)
    MPNetModel(config).save_pretrained(folder)
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True})
    _write_modules(folder, size=32, normalize=True, max_tokens=MAX_TOKENS)
    return folder


def build_modernbert(folder: Path) -> Path:
    """ModernBERT: rotary positions, layers that see a window and layers that see all; CLS pooling."""
    folder.mkdir(parents=True)
    tokens = _word_pieces(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], unknown="[UNK]")
    torch.manual_seed(6)
    config = ModernBertConfig(
        vocab_size=tokens,
        **{**SHAPE, "num_hidden_layers": 3},
        max_position_embeddings=MAX_TOKENS,
        local_attention=16,
        global_attn_every_n_layers=2,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        initializer_cutoff_factor=2.0,
    )
    ModernBertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    _write_modules(folder, size=32, normalize=False, max_tokens=MAX_TOKENS, pooling="cls")
    return folder


def build_qwen(folder: Path) -> Path:
    """Qwen3-Embedding: a decoder that pads on the left and pools its last token, an end sign; a prompt for questions."""
    folder.mkdir(parents=True)
    end = "<|endoftext|>"
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=end, eos_token=end, padding_side="left", model_max_length=MAX_TOKENS
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(7)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        **SHAPE,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=0,
    )
    Qwen3Model(config).save_pretrained(folder)
    prompts = {"query": "Instruct: find what answers it\nQuery:", "document": ""}
    _write_modules(folder, size=32, normalize=True, max_tokens=MAX_TOKENS, pooling="lasttoken", prompts=prompts)
    return folder


def build_dense(folder: Path) -> Path:
    """distiluse or LaBSE: a Dense layer behind the pooling, then unit length."""
    build_bert(folder, pooling="mean")
    torch.manual_seed(8)
    (folder / "2_Dense").mkdir()
    Dense(in_features=32, out_features=24).save(str(folder / "2_Dense"))
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    modules[3] |= {"idx": 3, "name": "3"}
    _write(folder / "modules.json", modules)
    return folder


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "luke": build_luke,
    "luke-with-modules": lambda folder: build_luke(folder, modules=True),
    "e5": build_e5,
    "xlm-r-slow": lambda folder: build_xlm_roberta(folder, fast=False),
    "xlm-r-without-modules": lambda folder: build_xlm_roberta(folder, fast=True, modules=False),
    "paraphrase-multilingual": build_paraphrase_multilingual,
    "bert": build_bert,
    "mpnet": build_mpnet,
    "modernbert": build_modernbert,
    "qwen": build_qwen,
    "dense": build_dense,
    "bert-without-prompt": lambda folder: build_bert(folder, pooling="mean", include_prompt=False),
}


def luke_vectors(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, 32] of LukeModel fed with the ids of the sentencepiece file itself, one text at a time, mean pooled."""
    pieces = SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    model = LukeModel.from_pretrained(folder).eval()
    vectors = []
    with torch.inference_mode():
        for text in texts:
            ids = [0, *fairseq_ids(pieces, text)[: MAX_TOKENS - 2], 2]
            vectors.append(model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0).numpy())
    return np.stack(vectors)


def copy_of(folder: Path, copy: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(folder, copy))


def _word_pieces(folder: Path, special: list[str], *, unknown: str) -> int:
    """Write vocab.txt; returns its length."""
    tokenizer = Tokenizer(WordPiece(unk_token=unknown))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.train_from_iterator(SENTENCES, WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda token: token[1])
    (folder / "vocab.txt").write_text("\n".join(token for token, _ in vocabulary), encoding="utf-8")
    return len(vocabulary)


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
    kinds = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    modes = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in kinds}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **modes, "include_prompt": include_prompt})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    if prompts:
        _write(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
