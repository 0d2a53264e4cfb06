"""ApiKey: a key as it is kept, which is its digest and what it may do; the key itself is known to its owner only."""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# embed: embeddings, jobs, files, batches, models. admin: everything.
Role = Literal["embed", "admin"]

# Whose jobs and files they are where nobody needs a key.
PUBLIC = "public"
# Hex digits of a key's digest that name its owner in Redis and in storage.
OWNER_DIGITS = 32
# So that a key is recognized as one, by people and by scanners for secrets.
KEY_PREFIX = "uk-"
HINT_CHARACTERS = 4


class Limits(BaseModel):
    """What one key may use; 0: as much as there is, None: as the settings say."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    requests_per_minute: int | None = Field(None, ge=0)
    tokens_per_minute: int | None = Field(None, ge=0)
    jobs: int | None = Field(None, ge=0)  # not finished ones, batches included
    stored_bytes: int | None = Field(None, ge=0)  # files and the inputs of jobs


LIMITS = tuple(Limits.model_fields)


class ApiKey(BaseModel):
    """An entry of keys.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    name: str = Field(min_length=1, max_length=200)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Role = "embed"
    limits: Limits = Limits()
    created_at: int = 0  # unix seconds
    hint: str = ""  # the last characters of the key, to tell keys apart

    @property
    def owner(self) -> str:
        """Who its jobs and files belong to: the same for the same key, wherever the key stands."""
        return self.sha256[:OWNER_DIGITS]


def digest_of(key: str) -> str:
    """SHA-256 in hex. Keys are long and random, so nothing slower is needed: nobody guesses them one by one."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key() -> str:
    """A key that nobody guesses: 256 bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def plain_key(key: str) -> ApiKey:
    """A key of the settings or of LocalAI's list, which may do everything, as there."""
    digest = digest_of(key)
    return ApiKey(id=f"key_{digest[:12]}", name="unnamed", sha256=digest, role="admin")
