"""Links: a download that a browser may fetch once within a minute without a key.

A page sends its key in a header, which a plain download cannot; and a file of gigabytes does not go through a page's memory. So
the page asks with its key for a link. Redis keeps its digest alone, and gives it out once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import orjson
from redis import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.errors import NotFound, RedisAway

EXPIRE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What may be fetched: a job's results or errors, as its owner, with these parameters."""

    owner: str
    job_id: str
    what: str
    query: Mapping[str, str]


class Links:
    """Raises RedisAway."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def make(self, link: Link) -> str:
        """A token for it: 256 bits."""
        token = secrets.token_urlsafe(32)
        try:
            self._redis.set(keys.link(_digest(token)), orjson.dumps(asdict(link)), ex=EXPIRE_S)
        except RedisError as error:
            raise RedisAway("no link can be made while Redis is away", retry_after_s=2) from error
        return token

    def take(self, token: str) -> Link:
        """What it stands for, this once. Raises NotFound."""
        try:
            raw = cast(Any, self._redis.getdel(keys.link(_digest(token))))
        except RedisError as error:
            raise RedisAway("links cannot be read while Redis is away", retry_after_s=2) from error
        if raw is None:
            raise NotFound("this link was used, or is older than a minute; ask for another one")
        return Link(**orjson.loads(raw))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
