"""Which files of a repository a sentence-transformers model needs: one copy of its weights, and what is read beside them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

MODULES = "modules.json"
# Configurations, vocabularies, remote code, the card.
_READ = frozenset(".json .jsonl .txt .model .py .jinja .vocab .bpe .codes .spm .tiktoken .md".split())
_WEIGHTS = frozenset({".safetensors", ".bin"})
# Left over from a training, or for other libraries.
_USELESS = frozenset({"training_args.bin", "optimizer.bin", "scheduler.bin", "trainer_state.json"})
# Folders that sentence-transformers writes modules into: 1_Pooling, query_0_Transformer.
_MODULE_FOLDER = re.compile(r"(?:\w+_)?\d+_\w+")
_SHARD = r"(?:-\d{5}-of-\d{5})?"
_USUAL = {
    ".safetensors": re.compile(rf"(?:adapter_)?model{_SHARD}\.safetensors"),
    ".bin": re.compile(rf"(?:pytorch|adapter)_model{_SHARD}\.bin"),
}


def needed(names: Iterable[str], module_paths: Iterable[str] = ()) -> list[str]:
    """Those of the names that are to be fetched, in order of name; `module_paths` are the folders that modules.json names."""
    folders: dict[str, list[PurePosixPath]] = defaultdict(list)
    modules = [PurePosixPath(path) for path in module_paths if path]
    for name in names:
        path = PurePosixPath(name)
        is_module = any(module in path.parents for module in modules)
        if len(path.parts) == 1 or is_module or (len(path.parts) == 2 and _MODULE_FOLDER.fullmatch(path.parts[0])):
            folders[str(path.parent)].append(path)
    return sorted(str(path) for paths in folders.values() for path in _of_folder(paths))


def needed_code(names: Iterable[str]) -> list[str]:
    """Of a repository that only lends its code to another model's."""
    return sorted(name for name in names if "/" not in name and (name.endswith(".py") or name == "config.json"))


def _of_folder(paths: list[PurePosixPath]) -> Iterable[PurePosixPath]:
    """Safetensors before pickles, and of each the names that the libraries look for before any others."""
    yield from (path for path in paths if path.suffix in _READ and path.name not in _USELESS and not path.name.startswith("."))
    for suffix in (".safetensors", ".bin"):
        weights = [path for path in paths if path.suffix == suffix and path.name not in _USELESS]
        usual = [path for path in weights if _USUAL[suffix].fullmatch(path.name)]
        if weights:
            yield from usual or weights
            return


def has_weights(names: Iterable[str]) -> bool:
    """Whether there is anything among the names that a model could be loaded from."""
    return any(PurePosixPath(name).suffix in _WEIGHTS for name in names)
