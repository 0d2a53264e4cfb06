"""LocalAI's wire format of applied models: what POST /models/apply takes, and how a job of it is shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.downloads import Download, Wish
from shared.errors import InvalidParameter
from shared.models import LOCALAI_ONLY, LOCALAI_ONLY_PARAMETERS, ModelConfig
from shared.models.config import HUB_MODEL
from web import openai

# LocalAI's mark of models that come from the hub and not from a gallery.
_HUB_GALLERY = "huggingface@"
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.-]+", re.ASCII)
MAX_FILE_NAME_CHARACTERS = 80


class ApplyFields(BaseModel):
    """The body of POST /models/apply; what else LocalAI's has is passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    id: str | None = Field(None, max_length=500, description="a model of the hub: org/name, also hf://, huggingface:// or a link")
    url: str | None = Field(None, max_length=500, description="the same")
    name: str | None = Field(None, min_length=1, max_length=200, description="what callers will put in `model`")
    overrides: dict[str, Any] | None = Field(None, description="keys of the model's entry in models.yaml")
    files: list[Any] | None = Field(None, description="none: the files are those of the repository")


class Applied(TypedDict):
    """The job, and where to ask for it."""

    uuid: str
    status: str


class ApplyJob(TypedDict):
    """A job as LocalAI shows it, and the numbers that its sizes are made of."""

    uuid: str
    deletion: bool
    file_name: str
    error: str | None
    processed: bool
    message: str
    progress: float
    file_size: str
    downloaded_size: str
    gallery_element_name: str
    cancelled: bool
    cancellable: bool
    downloaded_bytes: int
    total_bytes: int
    downloaded_files: int
    total_files: int
    created_at: int


def read_wish(body: bytes) -> Wish:
    """The wish in a body of POST /models/apply. Raises BadRequest."""
    fields = openai.read_fields(ApplyFields, openai.read_object(body))
    if fields.files:
        raise InvalidParameter("files: single files cannot be added; the repository's own are fetched", param="files")
    overrides = dict(fields.overrides or {})
    param, spec = _spec(fields, overrides)
    entry: dict[str, Any] = {"name": "", "backend": "sentence-transformers", "embeddings": True}
    entry |= {key: value for key, value in overrides.items() if key not in LOCALAI_ONLY}
    parameters = overrides.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidParameter("overrides.parameters: must be an object", param="overrides", code="invalid_type")
    entry["parameters"] = {key: value for key, value in parameters.items() if key not in LOCALAI_ONLY_PARAMETERS}
    entry["parameters"].setdefault("model", spec)
    entry["name"] = _name(fields, overrides, param, spec)
    return Wish(entry=_checked(entry), file=file_name(str(entry["name"])))


def _spec(fields: ApplyFields, overrides: Mapping[str, Any]) -> tuple[str, str]:
    """The parameter that says which model it is, and what it says. Raises InvalidParameter."""
    for param, said in (("id", fields.id), ("url", fields.url)):
        if said:
            spec = said.removeprefix(_HUB_GALLERY)
            if HUB_MODEL.fullmatch(spec) is None:
                raise InvalidParameter(
                    f"{param}: must be a model of the hub such as intfloat/multilingual-e5-small, also as hf://… or its link; "
                    "there are no galleries here",
                    param=param,
                )
            return param, spec
    parameters = overrides.get("parameters")
    model = parameters.get("model") if isinstance(parameters, dict) else None
    if isinstance(model, str) and model:
        return "overrides", model
    if fields.name is not None and HUB_MODEL.fullmatch(fields.name):
        return "name", fields.name
    raise InvalidParameter("id: say which model of the hub: id or url", param="id", code="missing_required_parameter")


def _name(fields: ApplyFields, overrides: Mapping[str, Any], param: str, spec: str) -> Any:
    """As given, else the last part of the id."""
    if fields.name is not None and param != "name":
        return fields.name
    if "name" in overrides:
        return overrides["name"]
    hub = HUB_MODEL.fullmatch(spec)
    return (hub["id"] if hub is not None else spec).rstrip("/").rpartition("/")[2]


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        ModelConfig.model_validate(entry)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in wrong["loc"])
        message = str(wrong["msg"]).removeprefix("Value error, ")
        param = "name" if where == "name" else "overrides"
        raise InvalidParameter(f"{where or param}: {message}", param=param) from None
    return entry


def file_name(model: str) -> str:
    """Of a model's entry in the models directory; two models never share it."""
    plain = _NOT_IN_FILE_NAMES.sub("_", model).lstrip(".")[:MAX_FILE_NAME_CHARACTERS]
    if plain == model:
        return f"{plain}.yaml"
    return f"{plain or 'model'}-{hashlib.sha256(model.encode()).hexdigest()[:8]}.yaml"


def apply_job(download: Download) -> ApplyJob:
    """As LocalAI shows it."""
    state = download.state
    is_done = state.is_over and state.error is None
    return {
        "uuid": download.wish.id,
        "deletion": False,
        "file_name": state.file,
        "error": state.error,
        "processed": state.is_over,
        "message": "cancelling" if download.is_cancelled and not state.is_over else state.message,
        "progress": 100.0 if is_done else round(100 * state.done_bytes / max(1, state.total_bytes), 2),
        "file_size": _size(state.total_bytes),
        "downloaded_size": _size(state.done_bytes),
        "gallery_element_name": download.wish.name,
        "cancelled": download.is_cancelled,
        "cancellable": not state.is_over,
        "downloaded_bytes": state.done_bytes,
        "total_bytes": state.total_bytes,
        "downloaded_files": state.done_files,
        "total_files": state.total_files,
        "created_at": int(download.wish.created_at),
    }


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
