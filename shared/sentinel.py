"""redis+sentinel:// URLs: a Redis whose master Sentinels name, and name anew when it fails.

redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DB][?sentinel_username=…&sentinel_password=…]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

SCHEME = "redis+sentinel://"
PORT = 26379
_QUERY = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True, slots=True)
class Sentinels:
    """What such a URL says."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    own: dict[str, str] = field(default_factory=dict, repr=False)  # username and password of the Sentinels themselves

    @classmethod
    def of(cls, url: str) -> Sentinels:
        """Raises ValueError, which never shows the password."""
        parts = urlsplit(url)
        credentials, _, places = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        service, _, db = parts.path.strip("/").partition("/")
        query = dict(parse_qsl(parts.query))
        if not places or not service or not (db or "0").isdigit():
            raise ValueError(f"a Sentinel URL is {SCHEME}HOST:{PORT},HOST:{PORT}/SERVICE/DB")
        if unknown := sorted(query.keys() - _QUERY.keys()):
            raise ValueError(f"a Sentinel URL takes {' and '.join(_QUERY)} in its query, not {', '.join(unknown)}")
        return cls(
            hosts=tuple(_place(place) for place in places.split(",")),
            service=unquote(service),
            db=int(db or 0),
            username=unquote(username) or None,
            password=unquote(password) or None,
            own={_QUERY[name]: value for name, value in query.items()},
        )

    def broker_url(self) -> str:
        """Kombu's spelling; the service and the Sentinels' own password go among its transport options."""
        user, password = quote(self.username or "", safe=""), quote(self.password or "", safe="")
        credentials = f"{user}:{password}@" if password else ""
        return ";".join(f"sentinel://{credentials}{host}:{port}/{self.db}" for host, port in self.hosts)


def _place(place: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = place, str(PORT)
    if not host or not port.isdigit():
        raise ValueError(f"a Sentinel URL names its Sentinels as HOST:{PORT},HOST:{PORT}")
    return host.strip("[]"), int(port)
