"""Which engine runs a SentenceTransformer: ONNX Runtime on a CPU where its vectors are torch's, otherwise torch.

`auto` falls back in silence where torch is simply the better choice, with one warning where ONNX should have done.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import orjson

import worker
from shared import metrics
from shared.logs import get_logger
from shared.models import ModelConfig, ModelSource, is_reranker
from worker.backends import Backend, LoadOptions
from worker.backends.checks import WrongModel
from worker.backends.exports import REFERENCE, Description, Exports, fingerprint, too_long
from worker.backends.memory import weights_bytes
from worker.backends.precision import choose, warn
from worker.backends.reference import Disagreement, Reference
from worker.backends.stand_in import StandIn

logger = get_logger(__name__)

# A large model takes some minutes. One that hangs holds up those that wait for the same export, and others behind it.
EXPORT_TIMEOUT_S = 1800.0
# From so much of weights on an export takes minutes, and torch serves meanwhile. Its libraries stay in the worker's memory until
# the next start, 350 MB: less than such a model takes, and more than a small one is worth.
STAND_IN_FROM_BYTES = 400_000_000


def load(config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
    """The model in the engine that its entry says, or in torch. Raises whatever torch's libraries do."""
    if options.is_exporting:
        return _stand_in(config, source, options)
    if _is_for_onnx(config, options):
        found = _load_export(config, source, options)
        if found is not None:
            return found
    elif config.engine == "onnx":
        reason = "there is no folder for its export" if options.device == "cpu" else "it is for CPUs here"
        _tell_why_torch(config, _Failed(reason))
    return _load_torch(config, source, options)


def _stand_in(config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
    """Torch, as a StandIn if an export is to be made; in float32, as on any CPU."""
    from worker.backends.sentence_transformers import SentenceTransformersBackend

    backend = SentenceTransformersBackend(config, source, options)
    reason = too_long(config, backend.max_tokens)
    if reason is None:
        return StandIn(backend)
    _stay_with_torch(config, _Expected(reason))
    return backend


def may_stand_in(config: ModelConfig, source: ModelSource) -> bool:
    """Whether torch serves until the export is made.

    If that takes long, if torch gives the vectors that ONNX will, and if the entry does not insist.
    """
    is_long = weights_bytes(source.directory) >= STAND_IN_FROM_BYTES
    return is_long and config.engine == "auto" and config.dtype != "int8"


def takes_over(config: ModelConfig, source: ModelSource, options: LoadOptions) -> bool:
    """Whether ONNX can serve now that the export was made; if torch is to stay, it is said why."""
    try:
        _find(config, source, options)
    except Exception as error:
        _stay_with_torch(config, error)
        return False
    return True


def needs_export(config: ModelConfig, source: ModelSource, options: LoadOptions) -> bool:
    """Whether a load would first have to make an export, which takes long. Reads the model's files, once."""
    if config.backend != "sentence-transformers" or is_reranker(config, source.directory) or not _is_for_onnx(config, options):
        return False
    assert options.engines is not None, "looked at by _is_for_onnx"
    try:
        return Exports(options.engines).find(fingerprint(config, source)) is None
    except OSError:
        return False  # the load finds out, and tells


def make_export(config: ModelConfig, source: ModelSource, options: LoadOptions) -> str | None:
    """Make it in a process of its own, and wait for it. The reason, if that failed; a refusal is no failure."""
    assert options.engines is not None, "nobody exports to nowhere"
    began = time.monotonic()
    try:
        with Exports(options.engines).making(fingerprint(config, source)) as folder:
            if folder is None:
                return None
            logger.info("exporting to ONNX", model=config.name)
            _run_exporter(config, source, options, folder)
    except (_Failed, OSError) as error:
        return str(error) if isinstance(error, _Failed) else f"{type(error).__name__}: {error}"
    logger.info("export ended", model=config.name, seconds=round(time.monotonic() - began, 1))
    return None


def _is_for_onnx(config: ModelConfig, options: LoadOptions) -> bool:
    return config.engine != "torch" and options.device == "cpu" and options.engines is not None


def _load_export(config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend | None:
    """None, having said why, where torch is to serve. Raises WrongModel for an entry that is wrong for any engine."""
    try:
        if options.export_failed is None and needs_export(config, source, options):
            options = replace(options, export_failed=make_export(config, source, options))
        return _open(config, _find(config, source, options), options)
    except WrongModel:
        raise
    except (_Expected, _Failed) as error:
        _tell_why_torch(config, error)
    except Exception as error:
        # Damaged: the next load makes it anew.
        _tell_why_torch(config, _Failed(f"its export is unusable: {type(error).__name__}: {str(error)[:200]}"))
        _discard(config, source, options)
    return None


def _find(config: ModelConfig, source: ModelSource, options: LoadOptions) -> Path:
    """The export's folder. Raises _Expected or _Failed if torch is to serve, and whatever a damaged one makes it raise."""
    assert options.engines is not None, "looked at by _is_for_onnx"
    try:
        folder = Exports(options.engines).find(fingerprint(config, source))
    except OSError as error:
        raise _Failed(f"{type(error).__name__}: {error}") from error
    if folder is None:
        raise _Failed(options.export_failed or "its files changed while it was exported")
    description = Description.read(folder)
    if description.refused is not None:
        raise (_Expected if description.is_expected else _Failed)(description.refused)
    return folder


def _discard(config: ModelConfig, source: ModelSource, options: LoadOptions) -> None:
    assert options.engines is not None, "looked at by _is_for_onnx"
    with suppress(OSError):
        Exports(options.engines).discard(fingerprint(config, source))


def _open(config: ModelConfig, folder: Path, options: LoadOptions) -> Backend:
    from worker.backends.onnxruntime import OnnxBackend

    backend = OnnxBackend(config, folder, threads=options.threads, lone_threads=options.lone_threads)
    try:
        agreement = backend.check(folder)
    except Exception:
        backend.close()
        raise
    logger.info("engine checked", model=config.name, engine="onnx", dtype=backend.dtype, agreement=round(agreement, 6))
    if config.dtype != "int8" and (reason := choose(config, options.device)[1]) is not None:
        warn(config, backend.dtype, reason)
    return backend


def _tell_why_torch(config: ModelConfig, error: Exception) -> None:
    """In silence where it is simply the better choice, with one warning where ONNX should have done."""
    if isinstance(error, _Expected):
        logger.info("torch serves", model=config.name, reason=str(error))
        return
    reason = str(error) if isinstance(error, _Failed) else f"{type(error).__name__}: {str(error)[:200]}"
    metrics.ONNX_FALLBACKS.inc(1, config.name)
    logger.warning("torch serves instead of ONNX", model=config.name, reason=reason)


def _stay_with_torch(config: ModelConfig, error: Exception) -> None:
    """Of a model that torch serves already, on a CPU."""
    _tell_why_torch(config, error)
    if (reason := choose(config, "cpu")[1]) is not None:
        warn(config, "float32", reason)


def _load_torch(config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
    """In half precision only if that gives the vectors of float32."""
    from worker.backends.sentence_transformers import SentenceTransformersBackend

    dtype, reason = choose(config, options.device, is_checked=True)
    if reason is not None:
        warn(config, dtype, reason)
    exact = config.model_copy(update={"dtype": "float32", "f16": False})
    reference = None
    if dtype != "float32":
        # Before the other one, so that both are never in memory side by side.
        reference = _reference(exact, source, options)
    backend = SentenceTransformersBackend(config, source, options)
    if reference is None:
        return backend
    try:
        agreement = reference.check(backend)
    except Disagreement as error:
        backend.close()
        logger.warning("float32 serves instead of half precision", model=config.name, reason=str(error))
        return SentenceTransformersBackend(exact, source, options)
    except BaseException:
        backend.close()
        raise
    logger.info("engine checked", model=config.name, engine="torch", dtype=backend.dtype, agreement=round(agreement, 6))
    return backend


def _reference(exact: ModelConfig, source: ModelSource, options: LoadOptions) -> Reference:
    """What float32 gives; kept in the data directory, because the model has to be loaded for it."""
    if options.engines is None:
        return _embed_exactly(exact, source, options)
    exports = Exports(options.engines)
    try:
        # An entry without an engine has no export under its key.
        key = fingerprint(exact.model_copy(update={"engine": "torch"}), source)
        if exports.find(key) is None:
            with exports.making(key) as folder:
                if folder is not None:
                    _embed_exactly(exact, source, options).write(folder / REFERENCE)
                    Description().write(folder)
    except OSError as error:
        logger.warning("reference not kept", model=exact.name, reason=f"{type(error).__name__}: {error}")
        return _embed_exactly(exact, source, options)
    try:
        return Reference.read(options.engines / key / REFERENCE)
    except Exception as error:  # what a power cut left of the file
        exports.discard(key)
        logger.warning("reference unusable", model=exact.name, reason=f"{type(error).__name__}: {error}")
        return _embed_exactly(exact, source, options)


def _embed_exactly(exact: ModelConfig, source: ModelSource, options: LoadOptions) -> Reference:
    from worker.backends.sentence_transformers import SentenceTransformersBackend

    backend = SentenceTransformersBackend(exact.model_copy(update={"prompts": {}, "default_prompt_name": None}), source, options)
    try:
        return Reference.of(backend)
    finally:
        backend.close()


class _Failed(Exception):
    """There is no export, and the message says why."""


class _Expected(Exception):
    """There is none, and that is as it should be."""


def _run_exporter(config: ModelConfig, source: ModelSource, options: LoadOptions, folder: Path) -> None:
    """Raises _Failed, with the last that the process said."""
    asked = {
        "config": config.model_dump(mode="json"),
        "directory": str(source.directory),
        "folder": str(folder),
        "threads": options.threads,
        "parent": os.getpid(),
    }
    # Its packages are found where this process found them, whatever the directory.
    path = os.pathsep.join([str(Path(worker.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "worker.backends.exporting"],
            input=orjson.dumps(asked),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C is for the worker, and the exporter dies with it
            timeout=EXPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _Failed(f"the exporter had not ended after {EXPORT_TIMEOUT_S:.0f} s") from None
    try:
        failed = orjson.loads(ended.stdout).get("failed")
    except ValueError:
        said = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        failed = f"the exporter ended with {ended.returncode}: {''.join(said)[:300]}"
    if failed is not None:
        raise _Failed(failed)
