"""Which engine serves: ONNX where its vectors are torch's, torch with one warning where something is in its way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from shared.models import ModelConfig, ModelSource, Parameters
from tests.support.models import BUILDERS, SENTENCES, copy_of
from tests.worker.backends.conftest import Build
from worker.backends import Backend, LoadOptions, engines
from worker.backends.checks import WrongModel
from worker.backends.exports import GRAPH, REFERENCE, Description, fingerprint
from worker.backends.onnxruntime import OnnxBackend
from worker.backends.reference import LEAST_AGREEMENT, Reference
from worker.backends.sentence_transformers import SentenceTransformersBackend
from worker.backends.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("frozen")

Load = Callable[..., Backend]


@pytest.fixture(scope="module")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports of earlier tests, by what they were made of."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, made_before: Path) -> list[str]:
    """Exports are made here, and once each, which is sooner; the names of the models that were."""
    made: list[str] = []

    def run(config: ModelConfig, source: ModelSource, options: LoadOptions, folder: Path) -> None:
        from worker.backends import exporting, exports

        made.append(config.name)
        kept = made_before / f"{fingerprint(config, source)}-{exports.MAX_TOKENS}"
        if kept.exists():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            return
        try:
            exporting.export(config, source, folder, options.threads)
        except exporting.Refused as error:
            Description(refused=str(error), is_expected=error.is_expected).write(folder)
        shutil.copytree(folder, kept)

    monkeypatch.setattr(engines, "_run_exporter", run)
    return made


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Load a folder as a worker does, exports in tmp_path/engines; closed after the test."""
    loaded: list[Backend] = []

    def load(folder: Path, *, device: str = "cpu", failed: str | None = None, **entry: Any) -> Backend:
        config = ModelConfig(name="m", parameters=Parameters(model=str(folder)), **entry)
        options = LoadOptions(device=device, threads=1, engines=tmp_path / "engines", export_failed=failed)
        loaded.append(engines.load(config, ModelSource(directory=folder), options))
        return loaded[-1]

    yield load
    for backend in loaded:
        backend.close()


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision, on this processor."""

    def half(config: ModelConfig, *_: Any, **__: Any) -> tuple[str, str | None]:
        return ("float32" if config.dtype == "float32" else "bfloat16"), None

    for module in ("engines", "loading"):
        monkeypatch.setattr(f"worker.backends.{module}.choose", half)


def warnings_of(logs: list[Any]) -> list[str]:
    return [entry["reason"] for entry in logs if entry["log_level"] == "warning"]


def export_of(tmp_path: Path) -> Path:
    (found,) = [folder for folder in (tmp_path / "engines").iterdir() if folder.is_dir()]
    return found


def test_a_cpu_is_served_by_onnx_which_is_exported_once(build: Build, load: Load, in_process: list[str]) -> None:
    first, second = load(build("bert")), load(build("bert"))

    assert isinstance(first, OnnxBackend)
    assert isinstance(second, OnnxBackend)
    assert in_process == ["m"]
    assert isinstance(load(build("bert"), engine="torch"), SentenceTransformersBackend)


def test_other_files_or_options_make_another_export_and_prompts_do_not(
    build: Build, tmp_path: Path, load: Load, in_process: list[str]
) -> None:
    folder = copy_of(build("bert"), tmp_path / "model")
    load(folder)
    prompted = load(folder, prompts={"title": "title: "}, default_prompt_name="title")
    assert (prompted.default_prompt_name, prompted.prompts["title"]) == ("title", "title: ")
    assert in_process == ["m"]

    assert load(folder, context_size=16).max_tokens == 16
    assert len(in_process) == 2

    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-4:] = np.float32(0.25).tobytes()
    weights.write_bytes(raw)
    load(folder)
    assert len(in_process) == 3


def test_an_impossible_default_prompt_is_the_entrys_mistake_in_any_engine(
    build: Build, load: Load, in_process: list[str]
) -> None:
    with pytest.raises(WrongModel, match="no prompt named 'question'"):
        load(build("bert"), default_prompt_name="question")


def test_normalize_and_context_size_are_in_the_export(build: Build, load: Load, in_process: list[str]) -> None:
    entry = {"normalize": True, "context_size": 8}
    onnx, torch = load(build("xlm-r-slow"), **entry), load(build("xlm-r-slow"), engine="torch", **entry)
    found, right = (backend.embed(backend.tokenize(SENTENCES)) for backend in (onnx, torch))
    np.testing.assert_allclose(found, right, atol=2e-5)


def test_a_refusal_is_remembered_and_said_once_a_load(build: Build, load: Load, in_process: list[str], tmp_path: Path) -> None:
    folder = copy_of(build("bert"), tmp_path / "strange")
    modules = orjson.loads((folder / "modules.json").read_bytes())
    modules[2]["type"] = "tests.support.modules.Strange"
    (folder / "modules.json").write_bytes(orjson.dumps(modules))

    for _ in range(2):
        with capture_logs() as logs:
            backend = load(folder, trust_remote_code=True)
        assert isinstance(backend, SentenceTransformersBackend)
        assert warnings_of(logs) == ["it has a module Strange"]
    assert in_process == ["m"]


def test_a_model_that_reads_very_much_is_torchs_without_a_warning(
    build: Build, load: Load, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.backends.exports.MAX_TOKENS", 32)
    with capture_logs() as logs:
        assert isinstance(load(build("bert")), SentenceTransformersBackend)
    assert warnings_of(logs) == []

    assert isinstance(load(build("bert"), engine="onnx"), OnnxBackend)


def test_a_model_that_reads_very_much_gets_no_exporter_and_one_line_says_why(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.backends.exports.MAX_TOKENS", 32)
    config = ModelConfig(name="m", parameters=Parameters(model=str(build("bert"))))
    options = LoadOptions(device="cpu", threads=1, engines=Path("nowhere"), is_exporting=True)

    with capture_logs() as logs:
        backend = engines.load(config, ModelSource(directory=build("bert")), options)

    assert isinstance(backend, SentenceTransformersBackend)  # and no StandIn, for which an export would be made
    assert [(line["log_level"], line["reason"]) for line in logs] == [
        ("info", "it reads up to 64 tokens: torch needs less memory for them")
    ]
    backend.close()


@pytest.mark.parametrize("layout", ["modernbert", "bert"])
def test_a_text_of_thousands_of_tokens_gives_encodes_vector_alone_and_beside_a_short_one(
    layout: str, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary positions with windows, and a table of positions."""
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("tests.support.models.MAX_TOKENS", 8192)
    folder = BUILDERS[layout](tmp_path / layout)
    text = "the quick brown fox jumps over the lazy dog. " * 250
    backend = load(folder, engine="torch")

    rows = backend.tokenize([text, "a short one"])

    assert backend.max_tokens == 8192
    assert len(rows[0]) > 2048
    assert not rows[0].truncated
    (right,) = SentenceTransformer(str(folder), device="cpu").encode([text])
    for found in (backend.embed(rows)[0], backend.embed(rows[:1])[0]):
        np.testing.assert_allclose(found, right, atol=1e-5 * max(1.0, np.abs(right).max()))
    assert load(folder, engine="torch").tokenize([text * 5])[0].truncated


def test_an_export_whose_vectors_are_others_is_thrown_away_and_torch_serves(
    build: Build, load: Load, in_process: list[str], tmp_path: Path
) -> None:
    right = load(build("bert"), engine="torch")
    load(build("bert")).close()
    reference = Reference.read(export_of(tmp_path) / REFERENCE)
    moved = np.roll(reference.vectors, 1, axis=1)
    Reference(reference.prompts, reference.batches, moved).write(export_of(tmp_path) / REFERENCE)

    with capture_logs() as logs:
        backend = load(build("bert"))

    (reason,) = warnings_of(logs)
    assert "vectors are not torch's" in reason
    np.testing.assert_array_equal(backend.embed(backend.tokenize(SENTENCES)), right.embed(right.tokenize(SENTENCES)))
    assert isinstance(load(build("bert")), OnnxBackend)
    assert in_process == ["m", "m"]


@pytest.mark.parametrize("name", [GRAPH, REFERENCE, "tokenizer.json", "engine.json"])
def test_a_damaged_export_is_made_anew_by_the_next_load(
    name: str, build: Build, load: Load, in_process: list[str], tmp_path: Path
) -> None:
    load(build("bert")).close()
    file = export_of(tmp_path) / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    with capture_logs() as logs:
        assert isinstance(load(build("bert")), SentenceTransformersBackend)

    assert len(warnings_of(logs)) == 1
    assert isinstance(load(build("bert")), OnnxBackend)


def test_a_data_directory_that_takes_nothing_leaves_torch_to_serve(
    build: Build, load: Load, in_process: list[str], tmp_path: Path
) -> None:
    (tmp_path / "engines").write_text("a file where the folder should be")
    with capture_logs() as logs:
        backend = load(build("bert"))

    assert isinstance(backend, SentenceTransformersBackend)
    assert len(warnings_of(logs)) == 1
    assert in_process == []


def test_an_export_that_just_failed_is_not_tried_again_at_once(build: Build, load: Load, in_process: list[str]) -> None:
    with capture_logs() as logs:
        assert isinstance(load(build("bert"), failed="the disk is full"), SentenceTransformersBackend)

    assert warnings_of(logs) == ["the disk is full"]
    assert in_process == []


def test_int8_is_onnx_and_says_how_well_it_agrees(
    build: Build, load: Load, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a real model 0.98 is asked. This one's weights are random and its vocabulary is trained anew: 0.982 to 0.999 in 28
    # builds, and once less.
    monkeypatch.setitem(LEAST_AGREEMENT, "int8", 0.9)
    with capture_logs() as logs:
        backend = load(build("bert"), dtype="int8")

    assert backend.dtype == "int8"
    (agreement,) = [entry["agreement"] for entry in logs if entry["event"] == "engine checked"]
    assert LEAST_AGREEMENT["int8"] < agreement < 0.99999


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("entry", [{"dtype": "float16"}, {"dtype": "bfloat16"}, {"f16": True}], ids=str)
def test_half_precision_on_a_cpu_is_float32_and_one_warning_says_so(
    engine: str, entry: dict[str, Any], build: Build, load: Load, in_process: list[str]
) -> None:
    with capture_logs() as logs:
        backend = load(build("bert"), engine=engine, **entry)

    assert backend.dtype == "float32"
    asked = entry.get("dtype", "float16")
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert (warning["event"], warning["asked"], warning["dtype"]) == ("dtype left out", asked, "float32")


def test_int8_that_torch_has_to_serve_is_float32_and_says_so(build: Build, load: Load, in_process: list[str]) -> None:
    with capture_logs() as logs:
        backend = load(build("bert"), dtype="int8", failed="the disk is full")

    assert backend.dtype == "float32"
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "torch serves instead of ONNX",
        "dtype left out",
    ]


def test_torch_stands_in_while_the_export_is_made_and_onnx_goes_on_with_its_rows(
    build: Build, tmp_path: Path, load: Load, in_process: list[str]
) -> None:
    config = ModelConfig(name="m", parameters=Parameters(model=str(build("bert"))), dtype="float16")
    source = ModelSource(directory=build("bert"))
    options = LoadOptions(device="cpu", threads=1, engines=tmp_path / "engines", is_exporting=True)
    with capture_logs() as logs:
        stand_in = engines.load(config, source, options)
    assert warnings_of(logs) == []  # torch is not what serves in the end
    assert isinstance(stand_in, StandIn)
    rows = stand_in.tokenize(SENTENCES, "query: ")
    by_torch = stand_in.embed(rows)
    assert not engines.takes_over(config, source, options)
    engines.make_export(config, source, options)
    assert engines.takes_over(config, source, options)

    assert stand_in.relieve(load(build("bert"), dtype="float16"))

    by_onnx = stand_in.embed(rows)
    assert not np.array_equal(by_onnx, by_torch)
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-5)


def test_a_reference_that_cannot_be_read_is_thrown_away_and_the_model_serves(
    build: Build, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a power cut may leave it: named, and empty. Half precision as on a GPU."""
    as_on_a_gpu(monkeypatch)
    load(build("e5"), engine="torch")
    (reference,) = (tmp_path / "engines").glob(f"*/{REFERENCE}")
    reference.write_bytes(b"")

    with capture_logs() as logs:
        backend = load(build("e5"), engine="torch")

    assert backend.dtype == "bfloat16"
    assert len(warnings_of(logs)) == 1
    assert not reference.exists()


def test_an_exporter_that_hangs_is_ended_and_torch_serves(build: Build, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "EXPORT_TIMEOUT_S", 0.01)

    with capture_logs() as logs:
        backend = load(build("bert"))

    assert isinstance(backend, SentenceTransformersBackend)
    assert warnings_of(logs) == ["the exporter had not ended after 0 s"]


def test_two_loads_at_once_make_one_export(build: Build, load: Load, in_process: list[str]) -> None:
    threads = [threading.Thread(target=load, args=(build("bert"),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert in_process == ["m"]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_row_that_is_beyond_the_vocabulary_fails_alone(engine: str, build: Build, load: Load, in_process: list[str]) -> None:
    from shared.errors import EngineFailed
    from worker.backends import TokenizedText
    from worker.forward import embed_rows

    backend = load(build("bert"), engine=engine)
    rows = [*backend.tokenize(SENTENCES[:3]), TokenizedText(np.array([2, 10_000, 3], np.int32), truncated=False)]

    outcomes = embed_rows(backend, rows, lambda _: None)

    assert isinstance(outcomes[3], EngineFailed)
    np.testing.assert_allclose(np.stack(outcomes[:3]), backend.embed(rows[:3]), atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_row_whose_vector_is_no_number_fails_alone_whatever_is_in_its_batch(
    engine: str, build: Build, load: Load, in_process: list[str], tmp_path: Path
) -> None:
    """A damaged row of the embedding table, which none of the texts looked at when the export was made has met."""
    from safetensors.numpy import load_file, save_file

    from shared.errors import EngineFailed
    from worker.backends import TokenizedText
    from worker.forward import embed_rows

    whole = load(build("bert"))
    texts = [row for batch in Reference.of(whole).batches for row in batch] + whole.tokenize([*SENTENCES[:3], "probe"])
    damaged = max(set(range(whole.vocabulary)) - {int(token_id) for row in texts for token_id in row.ids})
    folder = copy_of(build("bert"), tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    table = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[table][damaged] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    backend = load(folder, engine=engine)
    assert isinstance(backend, OnnxBackend if engine == "onnx" else SentenceTransformersBackend)
    rows = [*backend.tokenize(SENTENCES[:3]), TokenizedText(np.array([2, damaged, 3], np.int32), truncated=False)]

    outcomes = embed_rows(backend, rows, lambda _: None)

    assert isinstance(outcomes[3], EngineFailed)
    np.testing.assert_allclose(np.stack(outcomes[:3]), backend.embed(rows[:3]), atol=1e-6)  # type: ignore[arg-type]


def test_half_precision_that_leaves_the_range_is_refused_and_float32_serves(
    build: Build, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU would do, on this one's processor: the types are chosen as if it were one."""
    as_on_a_gpu(monkeypatch)
    backend = load(build("e5"), engine="torch", prompts={"title": "title: "})
    assert backend.dtype == "bfloat16"

    monkeypatch.setitem(LEAST_AGREEMENT, "bfloat16", 1.1)
    with capture_logs() as logs:
        backend = load(build("e5"), engine="torch")
    assert backend.dtype == "float32"
    assert len(warnings_of(logs)) == 1


@pytest.mark.parametrize("layout", ["e5", "dense"])
def test_in_half_precision_what_comes_behind_the_network_is_float32(
    layout: str, build: Build, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unit length tells: half precision has three digits of it."""
    exact = load(build(layout), engine="torch")
    as_on_a_gpu(monkeypatch)
    backend = load(build(layout), engine="torch")

    vectors = backend.embed(backend.tokenize(SENTENCES))

    assert backend.dtype == "bfloat16"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert not np.array_equal(vectors, exact.embed(exact.tokenize(SENTENCES)))


def test_a_batch_that_a_gpu_has_no_room_for_is_halved_and_the_next_ones_are_no_larger(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card with room for 100 padded tokens, as torch tells of it."""
    import torch

    from shared.models import ModelRegistry
    from shared.settings import Settings
    from worker.engine import EmbedRequest, Engine

    sizes: list[int] = []
    forward = SentenceTransformersBackend._forward

    def small(self: SentenceTransformersBackend, features: dict[str, Any]) -> Any:
        sizes.append(features["input_ids"].numel())
        if sizes[-1] > 100:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, features)

    monkeypatch.setattr(SentenceTransformersBackend, "_forward", small)
    config = ModelConfig(name="m", engine="torch", parameters=Parameters(model=str(build("bert"))))
    engine = Engine(Settings(data_dir=tmp_path, device="cpu", streams=1), ModelRegistry({"m": config}))
    engine.start()
    try:
        request = EmbedRequest(model=config, texts=[*SENTENCES] * 4, lane="bulk")
        first = engine.submit(request).result(60)
        assert max(sizes) > 100
        sizes.clear()
        second = engine.submit(request).result(60)
    finally:
        engine.stop()

    assert not first.errors
    assert max(sizes) <= 100
    np.testing.assert_allclose(second.vectors, first.vectors, atol=1e-5)


def test_a_process_exports_and_the_next_start_needs_neither_torch_nor_transformers(build: Build, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from shared.models import ModelConfig, ModelSource, Parameters
from worker.backends import LoadOptions, load_backend
folder, engines = map(Path, sys.argv[1:])
config = ModelConfig(name="m", parameters=Parameters(model=str(folder)))
backend = load_backend(config, ModelSource(directory=folder), LoadOptions(device="cpu", threads=1, engines=engines))
backend.embed(backend.tokenize(["a question"]))
print(type(backend).__name__, *sorted({"torch", "transformers", "sentence_transformers", "onnx"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", program, str(build("e5")), str(tmp_path / "engines")]
    home = tmp_path / "home"
    home.mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    variables |= dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(home))
    for _ in range(2):
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
        assert ended.stdout.splitlines()[-1] == "OnnxBackend"
    telemetry = [path.name for path in home.rglob("*") if path.name in ("Microsoft", ".onnxruntime", ".ses")]
    assert telemetry == [], "ONNX Runtime would report to its maker"
    assert [path.name for path in (tmp_path / "engines").iterdir() if path.name.startswith(".half")] == []
