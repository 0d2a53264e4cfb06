"""API keys of a request: who calls, and what they may do. Keys are held as digests and never logged."""

from __future__ import annotations

from dataclasses import dataclass

from werkzeug.datastructures import Headers

from shared.access import PUBLIC, KnownKeys, Limits, Role
from shared.errors import Forbidden, Unauthorized
from shared.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a caller may use; 0: as much as there is."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    jobs: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request; jobs and files belong to the owner."""

    owner: str
    role: Role = "admin"
    allowance: Allowance = Allowance()

    def require(self, role: Role) -> None:
        """Raises Forbidden unless the role is the caller's, or the caller may do everything."""
        if self.role not in (role, "admin"):
            message = f"this API key has the role `{self.role}`, and this route needs `{role}`"
            raise Forbidden(message)


class Access:
    """The API keys, and what callers may use by default."""

    def __init__(self, keys: KnownKeys, default: Allowance | None = None) -> None:
        self._keys = keys
        self._default = default or Allowance()

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """As the settings have it."""
        default = Allowance(
            requests_per_minute=settings.limit_requests_per_minute,
            tokens_per_minute=settings.limit_tokens_per_minute,
            jobs=settings.limit_jobs,
            stored_bytes=settings.limit_stored_bytes,
        )
        return cls(KnownKeys.of(settings), default)

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return self._keys.is_open

    def caller(self, headers: Headers) -> Caller:
        """Who sent these headers. Raises Unauthorized if a key is needed and none of the ones given is ours."""
        if self._keys.is_open:
            # Whatever is sent, such as the `Bearer None` of clients that must send something.
            return Caller(PUBLIC, "admin", self._default)
        given = _keys_in(headers)
        if not given:
            raise Unauthorized("an API key is needed: Authorization: Bearer KEY")
        key = self._keys.find(given)
        if key is None:
            raise Unauthorized("the API key is not one of this server's")
        return Caller(key.owner, key.role, self._allowance(key.limits))

    def _allowance(self, limits: Limits) -> Allowance:
        own = limits.model_dump(exclude_none=True)
        if not own:
            return self._default
        names = Allowance.__dataclass_fields__
        return Allowance(**{name: own.get(name, getattr(self._default, name)) for name in names})


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
