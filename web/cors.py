"""CORS: whether a browser lets a page of another origin read our answers."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Response, request

METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
# What a page's script may read beside the body.
EXPOSED = ", ".join(
    (
        "x-request-id",
        "Retry-After",
        "retry-after-ms",
        "x-should-retry",
        *(f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
        "Location",
        "ETag",
        "Accept-Ranges",
        "Content-Range",
        "Content-Disposition",
        "openai-model",
        "openai-processing-ms",
        "idempotent-replayed",
        "x-truncated-inputs",
        "x-umekomi-rows",
        "x-umekomi-next-after",
        "x-umekomi-complete",
    )
)
MAX_AGE_S = 600


class Cors:
    """The origins that may; none if it is off. No credentials: keys travel in headers that scripts set themselves."""

    def __init__(self, is_on: bool, origins: Sequence[str] = ()) -> None:
        self._is_on = is_on
        self._is_for_all = not origins or "*" in origins
        self._origins = frozenset(origins)

    def tell(self, response: Response) -> None:
        """Add the headers; errors carry them too, or a page would see no reason."""
        if not self._is_on:
            return
        if self._is_for_all:
            response.headers["Access-Control-Allow-Origin"] = "*"
        else:
            response.vary.add("Origin")
            origin = request.headers.get("Origin", "")
            if origin.lower() not in self._origins:
                return
            response.headers["Access-Control-Allow-Origin"] = origin
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = METHODS
            # Every header: `*` does not stand for Authorization, so those asked for are named.
            wanted = request.headers.get("Access-Control-Request-Headers", "")
            names = [name.strip() for name in wanted.split(",") if _is_name(name.strip())]
            response.headers["Access-Control-Allow-Headers"] = ", ".join(names) or "Authorization, Content-Type"
            response.headers["Access-Control-Max-Age"] = str(MAX_AGE_S)
            response.vary.add("Access-Control-Request-Headers")
        else:
            response.headers["Access-Control-Expose-Headers"] = EXPOSED


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 64 and name.isascii() and name.replace("-", "").replace("_", "").isalnum()
