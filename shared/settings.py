"""Settings: every knob of umekomi, read once per process from UMEKOMI_* variables, a default each that works on a laptop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.locations import parse_location
from shared.signing import signing_key

ENV_PREFIX = "UMEKOMI_"
# May hold a password: never in a message, a log or a repr.
SECRET = frozenset({"api_keys", "redis_url", "storage_url", "webhook_secret"})


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
    config_file: Path | None = Field(
        None, description="the served models (models.yaml); without it the bundled all-MiniLM-L6-v2 is served"
    )
    models_path: Path | None = Field(None, description="directory that relative model paths are looked up in")
    redis_url: str | None = Field(
        None, repr=False, description="redis://, rediss:// or unix:// URL of Redis or Valkey; without it `serve` starts its own"
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
    streams: int = Field(0, ge=0, le=256, description="batches run side by side; 0: one per core on a CPU, one on a GPU")
    max_batch_tokens: int = Field(0, ge=0, description="padded tokens of one batch; 0: 2048 on a CPU, 16384 on a GPU")
    batch_target_ms: float = Field(
        100.0, gt=0, description="a bulk batch lasts about so long while somebody interactive was seen lately"
    )
    shards_at_once: int = Field(3, ge=1, le=64, description="shards a worker runs side by side; keeps the device fed")

    # The web
    web_processes: int = Field(1, ge=1, le=64, description="gunicorn processes; one serves several hundred requests/s")
    web_threads: int = Field(64, ge=1, le=1024, description="threads per gunicorn process; each holds one waiting client")

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["auto", "json", "human"] = Field("auto", description="auto: human on a terminal, json elsewhere")

    @field_validator("api_keys", "input_roots", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        return tuple(key.strip() for key in value.split(",") if key.strip()) if isinstance(value, str) else value

    @field_validator("input_roots")
    @classmethod
    def _readable_roots(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for root in value:
            parse_location(root)
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _decodable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            signing_key(value.get_secret_value())
        return value

    @field_validator("config_file", "models_path", "redis_url", "storage_url", "webhook_secret", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("data_dir", "config_file", "models_path")
    @classmethod
    def _expand_home(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        is_host = ("[" not in host and ":" not in host) or (host.startswith("[") and host.endswith("]"))
        is_port = port.isascii() and port.isdecimal() and int(port) <= 65535
        if not colon or not is_port or not is_host or any(map(str.isspace, host)):
            raise ValueError("must be host:port, such as 127.0.0.1:8080, [::1]:8080 or :8080")
        return f"{host or '0.0.0.0'}:{port}"

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @property
    def storage(self) -> str:
        """The storage URL, the default filled in."""
        return self.storage_url or str(self.data_dir / "storage")

    @property
    def broker(self) -> str:
        """The Redis URL, the default filled in."""
        return self.redis_url or "redis://127.0.0.1:6379/0"


class WrongSettings(SystemExit):
    """A variable or flag has a wrong value: the process stops, and its message names the variable."""


def load_settings(**flags: Any) -> Settings:
    """The process's settings: flags that are not None win over UMEKOMI_* variables.

    Raises WrongSettings, which ends the process with one line per wrong variable.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise WrongSettings("\n".join(map(_sentence, error.errors()))) from None


def _sentence(problem: Any) -> str:
    name = str(problem["loc"][0])
    got = "" if name in SECRET else f" (got {problem['input']!r})"
    return f"{ENV_PREFIX}{name.upper()}: {problem['msg'].removeprefix('Value error, ')}{got}"
