"""API keys: who calls. Keys are held as digests, compared in constant time, and never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from werkzeug.datastructures import Headers

from shared.errors import Unauthorized

# Everybody, where no key is configured.
PUBLIC = "public"
# Hex digits of a key's digest that name its owner in Redis and in storage.
OWNER_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request; jobs and files belong to the owner."""

    owner: str


class Access:
    """The configured API keys."""

    def __init__(self, api_keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in api_keys]

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return not self._digests

    def caller(self, headers: Headers) -> Caller:
        """Who sent these headers. Raises Unauthorized if a key is needed and none of the ones given is ours."""
        if self.is_open:
            return Caller(PUBLIC)  # whatever is sent, such as the `Bearer None` of clients that must send something
        given = [_digest(key) for key in _keys_in(headers)]
        if not given:
            raise Unauthorized("an API key is needed: Authorization: Bearer KEY")
        found = None
        for ours in self._digests:
            for theirs in given:
                # Every pair is compared, whatever was found before.
                if hmac.compare_digest(ours, theirs):
                    found = ours
        if found is None:
            raise Unauthorized("the API key is not one of this server's")
        return Caller(found.hex()[:OWNER_DIGITS])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _keys_in(headers: Headers) -> list[str]:
    """Authorization with or without `Bearer`, and x-api-key."""
    keys = []
    authorization = headers.get("Authorization", "").strip()
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        keys.append(rest.strip())
    elif authorization:
        keys.append(authorization)
    if api_key := headers.get("x-api-key", "").strip():
        keys.append(api_key)
    return [key for key in keys if key]
