"""Exports: the ONNX engines in the data directory, a folder each, found by a digest of all that they were made of.

A folder appears whole, under a lock of its own between processes, and is never changed: who wants the same export waits for
it, and nobody waits for another one. What a killed process left is swept by the next one that makes something. An export
that was not loaded for a month is thrown away then.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from shared.models import ModelConfig, ModelSource
from worker.model_files import library_version, look, sha256_of

GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
REFERENCE = "reference.npz"
_DESCRIPTION = "engine.json"
# Attention over one text of so many tokens takes 200 MB with 12 heads, and four times as much for twice as many: ONNX
# Runtime keeps the whole matrix, torch does not. Models that read more are torch's, unless their entry says `onnx`.
MAX_TOKENS = 2048
# Raise it when exports of before are not to be used any longer.
_FORMAT = 2
_HALF_MADE, _LOCK = ".half-", ".lock-"
_UNUSED_S = 30 * 86_400.0
# They make the graph, or run it.
_LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnxruntime")
# Keys of an entry that an export depends on.
_OF_THE_EXPORT = {"engine", "dtype", "normalize", "pooling", "context_size", "trust_remote_code", "revision"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an export is, or why there is none: then `refused` is the reason and the rest says nothing."""

    refused: str | None = None
    is_expected: bool = False  # a refusal that is no surprise, and needs no warning
    dimensions: int = 0
    max_tokens: int = 0
    vocabulary: int = 0
    dtype: str = "float32"
    pad_id: int = 0
    pads_left: bool = False
    excludes_prompt: bool = False
    prompts: dict[str, str] | None = None  # the model's own
    default_prompt_name: str | None = None  # the model's own

    def write(self, folder: Path) -> None:
        """Into an export's folder."""
        (folder / _DESCRIPTION).write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Of an export. Raises OSError, and ValueError or TypeError if it is damaged."""
        return cls(**orjson.loads((folder / _DESCRIPTION).read_bytes()))


class Exports:
    """The folder of all exports. Every method may raise OSError: it may be full, or only for reading."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, key: str) -> Path | None:
        """The folder of an export that was made, marked as used."""
        folder = self._root / key
        if not (folder / _DESCRIPTION).is_file():
            return None
        with suppress(OSError):
            os.utime(folder)
        return folder

    def discard(self, key: str) -> None:
        """Throw a damaged one away."""
        shutil.rmtree(self._root / key, ignore_errors=True)

    @contextmanager
    def making(self, key: str) -> Iterator[Path | None]:
        """An empty folder that becomes the export when the block ends well; None if another process made it meanwhile."""
        self._root.mkdir(parents=True, exist_ok=True)
        with self._locked(key):
            if self.find(key) is not None:
                yield None
                return
            self._sweep()
            half_made = self._root / f"{_HALF_MADE}{key}"
            shutil.rmtree(half_made, ignore_errors=True)
            half_made.mkdir()
            try:
                yield half_made
                half_made.rename(self._root / key)
            finally:
                shutil.rmtree(half_made, ignore_errors=True)

    @contextmanager
    def _locked(self, key: str, *, waits: bool = True) -> Iterator[None]:
        """One maker of an export at a time, among all processes. Raises BlockingIOError if it is not to wait and would."""
        file = self._root / f"{_LOCK}{key}"
        while True:
            with file.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)  # open again when the process dies
                if not _is_at(file, lock.fileno()):
                    continue  # who had it before took the file away
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return

    def _sweep(self) -> None:
        """What nobody makes any longer, and what nobody used for long. Others may be sweeping too."""
        for path in list(self._root.iterdir()):
            left = next((path.name.removeprefix(sign) for sign in (_HALF_MADE, _LOCK) if path.name.startswith(sign)), None)
            with suppress(OSError):
                if left is not None:
                    with self._locked(left, waits=False):
                        shutil.rmtree(self._root / f"{_HALF_MADE}{left}", ignore_errors=True)
                elif path.is_dir() and time.time() - path.stat().st_mtime > _UNUSED_S:
                    shutil.rmtree(path, ignore_errors=True)


def _is_at(file: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def too_long(config: ModelConfig, max_tokens: int) -> str | None:
    """Why a model that reads so many tokens is torch's; None if it is not for that."""
    if config.engine != "auto" or max_tokens <= MAX_TOKENS:
        return None
    return f"it reads up to {max_tokens} tokens: torch needs less memory for them"


def fingerprint(config: ModelConfig, source: ModelSource) -> str:
    """A digest of what an export is made of: the model's files, its entry, the libraries.

    Files count by their contents: images and copies give others the same times. 1.5 GB/s. Raises OSError.
    """
    found = hashlib.sha256()
    says = config.model_dump(mode="json", include=_OF_THE_EXPORT)
    if says["dtype"] != "int8":
        says["dtype"] = "auto"  # half precision is computed in float32 on a CPU
    found.update(orjson.dumps([_FORMAT, says, [library_version(library) for library in _LIBRARIES]], option=orjson.OPT_SORT_KEYS))
    assert source.directory is not None, "models of a hub were fetched before"
    for name, content in sha256_of(source.directory, tuple(look(source.directory))):
        found.update(name.encode(errors="surrogateescape") + b"\0" + content)
    return found.hexdigest()[:32]
