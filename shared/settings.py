"""Settings: every knob of umekomi, read once per process from UMEKOMI_* variables, a default each that works on a laptop."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.localai import from_variables
from shared.locations import parse_location
from shared.sentinel import SCHEME as SENTINELS
from shared.sentinel import Sentinels
from shared.signing import signing_key

ENV_PREFIX = "UMEKOMI_"
_ORIGIN = re.compile(r"(?i:[a-z][a-z0-9+.-]*://[^\s/?#@,]+)")
# May hold a password: never in a message, a log or a repr.
SECRET = frozenset({"api_keys", "redis_url", "storage_url", "webhook_secret"})

# Other people's words for our values, LocalAI's among them.
LOG_WORDS = {"warn": "warning", "trace": "debug", "fatal": "error", "default": "auto", "text": "human"}


def default_data_dir() -> Path:
    """$XDG_DATA_HOME/umekomi, or ~/.local/share/umekomi."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "umekomi"


class Settings(BaseSettings):
    """One field per variable; the description says when to change it. A wrong value stops the process, by name."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", validate_default=True, env_ignore_empty=True, allow_inf_nan=False
    )

    # Where things are
    address: str = Field("127.0.0.1:8080", description="host:port the API listens on; 0.0.0.0:8080 for every interface")
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="directory of the embedded Valkey, of storage and of the model cache",
    )
    engines_dir: Path | None = Field(
        None,
        description="where workers keep the ONNX engines they make; share it to make them once; default DATA_DIR/engines",
    )
    config_file: Path | None = Field(
        None, description="the served models (models.yaml); without it the bundled all-MiniLM-L6-v2 is served"
    )
    models_path: Path | None = Field(
        None,
        description="directory that relative model paths are looked up in; its *.yaml and *.yml are read as configuration too",
    )
    offline: bool = Field(
        False, description="ask no model hub: models are in its cache on this machine, or in directories; as HF_HUB_OFFLINE=1"
    )
    redis_url: str | None = Field(
        None,
        repr=False,
        description="redis://, rediss://, unix:// or redis+sentinel:// URL of Redis or Valkey; without it `serve` starts its own",
    )
    storage_url: str | None = Field(
        None,
        repr=False,
        description="where jobs live: a directory or an fsspec URL such as s3://bucket/prefix; default DATA_DIR/storage",
    )

    # Who may call
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="comma-separated API keys; when set, every route but health wants one"
    )

    api_keys_file: Path | None = Field(
        None, description="what `umekomi keys` writes: keys by their digests, with role and limits; default DATA_DIR/keys.json"
    )
    localai_config_dir: Path | None = Field(
        None,
        description="directory whose api_keys.json, a JSON list as LocalAI has it, holds further keys; reread when it changes",
    )
    cors: bool = Field(False, description="let web pages of other origins call the API from a browser")
    cors_allow_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated origins that `cors` is for, such as https://app.example.com; unset: every origin"
    )

    # What one API key may use, unless its entry in keys.json says otherwise; 0: no limit
    limit_requests_per_minute: int = Field(0, ge=0, description="requests of a key in a minute that embed or submit; 0: no limit")
    limit_tokens_per_minute: int = Field(0, ge=0, description="tokens of a key's synchronous requests in a minute; 0: no limit")
    limit_jobs: int = Field(0, ge=0, description="jobs and batches of a key that are not finished; 0: no limit")
    limit_stored_bytes: int = Field(0, ge=0, description="a key's files and inputs of jobs in storage together; 0: no limit")

    # The interactive lane
    interactive_timeout_s: float = Field(
        25.0, gt=0, le=600, description="how long a synchronous request waits for its answer before 503"
    )
    interactive_max_waiting: int = Field(
        1024, ge=1, description="asks waiting per model before further ones get 429; lower it to shed load sooner"
    )
    interactive_max_waiting_bytes: int = Field(
        64 * 2**20, ge=2**16, description="bytes of asks waiting per model before further ones get 429"
    )

    # Limits of one request
    max_inputs: int = Field(2048, ge=1, description="texts in one synchronous request; OpenAI's limit is 2048")
    max_request_bytes: int = Field(
        15 * 2**20, ge=1024, description="body of a synchronous request; larger ones are told to submit a job"
    )
    max_text_bytes: int = Field(2**20, ge=1024, description="one text, in a request or a job row, in UTF-8 bytes")
    max_upload_bytes: int = Field(
        64 * 2**30, ge=2**20, description="body of a job, also after decompression; storage should hold it"
    )

    input_roots: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="comma-separated directories and URL prefixes that jobs may read by input_url, such as s3://corpora/public; "
        "workers read them with their own rights",
    )

    # The bulk lane
    shard_seconds: float = Field(
        4.0, gt=0, le=300, description="device time a shard should take; shorter: finer progress, more files"
    )
    max_shard_rows: int = Field(20_000, ge=1, description="rows of one shard, however fast the device")
    window: int = Field(
        2, ge=1, le=64, description="shards in flight per worker beyond the ones it runs; raise it for a far-away Redis"
    )
    lease_s: float = Field(15.0, ge=2, description="a shard whose worker was silent for so long is given to another")
    resend_after_s: float = Field(
        30.0,
        ge=1,
        description="a shard that no worker took for so long is sent again; above the longest wait in the queue",
    )
    reconcile_interval_s: float = Field(5.0, gt=0, description="how often one worker looks for lost shards")
    max_attempts: int = Field(3, ge=1, le=20, description="crashes on a shard before its rows are tried in halves")

    # OpenAI's files and batches
    max_file_bytes: int = Field(512 * 2**20, ge=1024, description="a file of POST /v1/files; OpenAI's limit is 512 MB")
    files_expire_after_s: float = Field(
        30 * 86_400.0, ge=0, description="files whose uploader or batch says nothing else are deleted after so long; 0: never"
    )
    openai_batch_window_s: float = Field(
        86_400.0, gt=0, description="a batch that is not done after so long expires, with what it has; OpenAI's is 24 hours"
    )
    openai_batch_max_bytes: int = Field(200 * 2**20, ge=1024, description="the input file of a batch; OpenAI's limit is 200 MB")
    openai_batch_max_requests: int = Field(50_000, ge=1, description="requests in one batch, as OpenAI has it")
    openai_batch_max_inputs: int = Field(50_000, ge=1, description="texts in all requests of one batch, as OpenAI has it")

    # Jobs that are finished
    jobs_expire_after_s: float = Field(
        30 * 86_400.0, ge=0, description="finished jobs and their files are deleted after so long; 0: never"
    )

    # The vector cache (`cache: true` of a job)
    vector_cache_memory_bytes: int = Field(
        256 * 2**20, ge=2**20, description="a worker's index of the cached vectors, 16 bytes each; of more the newest are known"
    )
    cache_expire_after_s: float = Field(
        30 * 86_400.0, ge=0, description="cached vectors are removed so long after they were made; 0: never"
    )
    cache_max_bytes: int = Field(
        16 * 2**30, ge=0, description="cached vectors in storage, 1.6 kB each at 384 dimensions; the oldest go first"
    )

    # Webhooks
    webhook_secret: SecretStr | None = Field(
        None, description="signs webhooks, as whsec_BASE64 or plain text; without it jobs take no webhook_url"
    )
    webhook_allow_private: bool = Field(
        False, description="let webhooks go to private and loopback addresses; only where every caller is trusted"
    )

    # The worker
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto takes the GPU if there is one")
    devices: str = Field("", description="one worker process each: all, or a list such as cuda:0,cuda:1; unset: one, on DEVICE")
    streams: int = Field(0, ge=0, le=256, description="batches run side by side; 0: one per core on a CPU, one on a GPU")
    max_batch_tokens: int = Field(0, ge=0, description="padded tokens of one batch; 0: 2048 on a CPU, 16384 on a GPU")
    varlen: bool = Field(
        True, description="on a GPU, run the layers of BERT-like networks without padding, where that is checked"
    )
    batch_target_ms: float = Field(
        100.0, gt=0, description="a batch of bulk or of long asks lasts about so long while shorter ones were seen lately"
    )
    bulk_share: float = Field(0.1, ge=0.01, le=0.9, description="of a device's time, which bulk has while questions never cease")
    shards_at_once: int = Field(3, ge=1, le=64, description="shards a worker runs side by side; keeps the device fed")

    metrics_address: str = Field(
        "",
        description="host:port at which a worker serves /metrics, to whoever asks; several on one host take the next free ports",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of a worker, over all its streams; 0: one per core")
    f16: bool = Field(False, description="half precision on a GPU for every model whose entry says neither f16 nor dtype")
    context_size: int = Field(
        0, ge=0, description="most tokens of a text for every model whose entry says no context_size; 0: as the model's own"
    )
    # Which models are loaded
    max_active_backends: int = Field(
        0, ge=0, description="models loaded at a time in a worker, the least recently used go; 0: all of them"
    )
    single_active_backend: bool = Field(False, description="the same as MAX_ACTIVE_BACKENDS=1")
    max_model_memory_bytes: int = Field(
        0, ge=0, description="what loaded models may take of a GPU's memory, or of RAM on a CPU, as measured; 0: no bound"
    )
    watchdog_idle: bool = Field(False, description="unload models nobody used for a while; an entry's `ttl` holds without it")
    watchdog_idle_timeout_s: float = Field(900.0, gt=0, description="for how long; pinned models stay")
    watchdog_busy: bool = Field(
        True, description="a worker whose batch hangs ends itself; it is started again, its work goes to another or comes back"
    )
    watchdog_busy_timeout_s: float = Field(300.0, gt=0, description="a batch that runs for so long hangs; most take a second")
    preload_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated names: only these, and those that say `preload: true`, are loaded at start; unset: all"
    )
    preload_backend_only: bool = Field(False, description="`serve` runs everything but the API")

    # The web
    machine_tag: str = Field("", max_length=200, description="sent with every response as Machine-Tag, to tell servers apart")
    disable_webui: bool = Field(False, description="do not serve the pages for browsers; the API stays")
    disable_metrics_endpoint: bool = Field(False, description="do not serve /metrics")
    metrics_open: bool = Field(False, description="serve the API's /metrics to whoever asks, also where there are keys")
    web_processes: int = Field(1, ge=1, le=64, description="gunicorn processes; one serves several hundred requests/s")
    web_threads: int = Field(
        128, ge=1, le=1024, description="clients per gunicorn process that wait for an answer at once; further ones get 429"
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["auto", "json", "human"] = Field("auto", description="auto: human on a terminal, json elsewhere")

    @field_validator("api_keys", "cors_allow_origins", "input_roots", "preload_models", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        return tuple(key.strip() for key in value.split(",") if key.strip()) if isinstance(value, str) else value

    @field_validator("input_roots")
    @classmethod
    def _readable_roots(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for root in value:
            parse_location(root)
        return value

    @field_validator("cors_allow_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError("must be origins such as https://app.example.com or http://localhost:3000, or *")
        return tuple(origin.lower() for origin in value)

    @field_validator("webhook_secret")
    @classmethod
    def _decodable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            signing_key(value.get_secret_value())
        return value

    @field_validator(
        "config_file",
        "api_keys_file",
        "localai_config_dir",
        "models_path",
        "redis_url",
        "storage_url",
        "webhook_secret",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("data_dir", "config_file", "api_keys_file", "localai_config_dir", "models_path")
    @classmethod
    def _expand_home(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return LOG_WORDS.get(value.lower(), value.lower()) if isinstance(value, str) else value

    @field_validator("machine_tag")
    @classmethod
    def _fits_a_header(cls, value: str) -> str:
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise ValueError("must be printable ASCII without spaces around it")
        return value

    @field_validator("address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        is_host = ("[" not in host and ":" not in host) or (host.startswith("[") and host.endswith("]"))
        is_port = port.isascii() and port.isdecimal() and int(port) <= 65535
        if not colon or not is_port or not is_host or any(map(str.isspace, host)):
            raise ValueError("must be host:port, such as 127.0.0.1:8080, [::1]:8080 or :8080")
        return f"{host or '0.0.0.0'}:{port}"

    @field_validator("metrics_address")
    @classmethod
    def _host_and_port_if_any(cls, value: str) -> str:
        return cls._host_and_port(value) if value else value

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value is not None and value.startswith(SENTINELS):
            Sentinels.of(value)
        elif value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(f"must start with redis://, rediss://, unix:// or {SENTINELS}")
        return value

    @property
    def storage(self) -> str:
        """The storage URL, the default filled in."""
        return self.storage_url or str(self.data_dir / "storage")

    @property
    def engines(self) -> Path:
        """The directory of the engines, the default filled in."""
        return self.engines_dir or self.data_dir / "engines"

    @property
    def applied_models(self) -> Path:
        """The directory of the entries that POST /models/apply writes; they are read as those of `models_path` are."""
        return self.models_path or self.data_dir / "models"

    @property
    def keys_file(self) -> Path:
        """The file of `umekomi keys`, the default filled in."""
        return self.api_keys_file or self.data_dir / "keys.json"

    @property
    def broker(self) -> str:
        """The Redis URL, the default filled in."""
        return self.redis_url or "redis://127.0.0.1:6379/0"


class WrongSettings(SystemExit):
    """A variable or flag has a wrong value: the process stops, and its message names the variable."""


def load_settings(**flags: Any) -> Settings:
    """The process's settings: flags that are not None win over UMEKOMI_* variables, and those over LocalAI's.

    Raises WrongSettings, which ends the process with one line per wrong variable.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    ours = {name.upper() for name, value in os.environ.items() if value}
    theirs = from_variables(os.environ)
    values = {name: value for name, value in theirs.values.items() if name not in given and ENV_PREFIX + name.upper() not in ours}
    try:
        return Settings(**values | given)
    except ValidationError as error:
        sources = {name: theirs.sources[name] for name in values}
        raise WrongSettings("\n".join(_sentence(problem, sources) for problem in error.errors())) from None


def _sentence(problem: Any, sources: Mapping[str, str]) -> str:
    name = str(problem["loc"][0])
    variable = sources.get(name, f"{ENV_PREFIX}{name.upper()}")
    got = "" if name in SECRET else f" (got {problem['input']!r})"
    return f"{variable}: {problem['msg'].removeprefix('Value error, ')}{got}"
