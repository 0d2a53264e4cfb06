"""Every block of code in the documents: parsed as what it says it is, and run against a real service where that is possible."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from shared.models.reading import read_registry
from tests.docs.blocks import LANGUAGES, ROOT, Block, blocks, pages, values
from tests.docs.given import GIVEN, NAMES
from tests.support.service import Service

BLOCKS = {page: list(blocks(page)) for page in pages()}
ALL = [block for found in BLOCKS.values() for block in found]
RUN = ("sh", "python", "javascript")
TO_RUN = [page for page, found in BLOCKS.items() if any(block.language in RUN and not block.not_run for block in found)]
# Recipes are for other people's frameworks, which `make test` installs apart from ours.
FRAMEWORKS = ROOT / ".venv-frameworks" / "bin" / "python"
# A shell goes on with the variables of the one before; what fails is told with its line in the page.
SHELL = "set -eo pipefail; [ ! -e state.sh ] || . ./state.sh; set -a; trap 'export -p > state.sh' EXIT; "
SHELL += "trap 'echo \"line $LINENO: $BASH_COMMAND\" >&2' ERR; "


def of(*languages: str) -> list[Block]:
    return [block for block in ALL if block.language in languages]


def of_page(page: Path, language: str) -> list[Block]:
    return [block for block in BLOCKS[page] if block.language == language and not block.not_run]


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_says_in_which_language_it_is(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: no fence without a language, and none but {', '.join(LANGUAGES)}"


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    try:
        assert values(block.code)
    except ValueError as error:
        pytest.fail(f"{block}: {error}")


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_yaml_and_what_names_models_is_a_right_configuration(block: Block, tmp_path: Path) -> None:
    try:
        documents = list(yaml.safe_load_all(block.code))
    except yaml.YAMLError as error:
        pytest.fail(f"{block}: {error}")
    if all(isinstance(entries, list) and all("name" in entry for entry in entries) for entries in documents):
        file = tmp_path / "models.yaml"
        file.write_text(block.code)
        registry = read_registry(file)
        assert not registry.problems, f"{block}: {'; '.join(map(str, registry.problems))}"
        assert list(registry)


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    try:
        compile(block.in_place(), str(block.page), "exec")
    except SyntaxError as error:
        pytest.fail(f"{block}: {error}")


def test_the_shells_parse(tmp_path: Path) -> None:
    for number, block in enumerate(of("sh")):
        script = tmp_path / f"{number}.sh"
        script.write_text(block.in_place())
        parsed = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
        assert parsed.returncode == 0, f"{block}: {parsed.stderr}"


@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_works(page: Path, service: Service, environment: dict[str, str], tmp_path: Path) -> None:
    """Its shells one after the other, then its Python and its JavaScript as a program each."""
    name = str(page.relative_to(ROOT))
    GIVEN.get(name, lambda *_: None)(tmp_path, environment)

    for block in of_page(page, "sh"):
        # What is put before the block stands on its first line, so that lines stay those of the page.
        head = "\n" * (block.line - 2) + SHELL.rstrip("; ") + "\n" if block.line > 1 else SHELL
        run(["bash", str(script(tmp_path / "block.sh", head + block.code, service))], str(block), environment, tmp_path)
    if program := of_page(page, "python"):
        is_recipe = page.parent.name == "recipes"
        if is_recipe and not FRAMEWORKS.exists():
            pytest.skip("the frameworks are not installed; make test does it")
        source = NAMES.get(name, "") + merged(program)
        file = script(tmp_path / f"{page.name}.py", source, service)
        run([str(FRAMEWORKS) if is_recipe else sys.executable, str(file)], name, environment, tmp_path)
    if program := of_page(page, "javascript"):
        if shutil.which("node") is None or not (tmp_path / "node_modules" / "openai").exists():
            pytest.skip("Node or its client is not installed; make test installs the client")
        run(["node", str(script(tmp_path / f"{page.name}.mjs", merged(program), service))], name, environment, tmp_path)


def merged(program: Sequence[Block]) -> str:
    """The blocks at their lines, and nothing between them."""
    lines: list[str] = []
    for block in program:
        lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    return "\n".join(lines) + "\n"


def script(file: Path, source: str, service: Service) -> Path:
    """A file of the code, with the address of the service instead of the usual one."""
    address = service.url.removeprefix("http://")
    file.write_text(source.replace("127.0.0.1:8080", address).replace("localhost:8080", address))
    return file


def run(command: list[str], where: str, environment: dict[str, str], directory: Path) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{where}: ends with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
