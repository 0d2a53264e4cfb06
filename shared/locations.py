"""Locations: URLs and paths from outside that may be read only where an operator allows it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from shared.errors import InvalidParameter, NotFound, StorageAway, UmekomiError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL = ("file", "local")
MAX_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class Location:
    """A URL taken apart: nothing in it leads upwards, or to another one."""

    scheme: str
    segments: tuple[str, ...]  # host or bucket first; of a path from its root on

    @property
    def url(self) -> str:
        """Its one spelling."""
        path = "/".join(self.segments)
        return f"/{path}" if self.scheme == "file" else f"{self.scheme}://{path}"

    def is_under(self, root: Location) -> bool:
        """Whether it is the root or something in it, segment by segment."""
        return self.scheme == root.scheme and self.segments[: len(root.segments)] == root.segments


def parse_location(text: str) -> Location:
    """An absolute path or an fsspec URL. Raises ValueError, which says what is wrong."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"has over {MAX_CHARACTERS} characters")
    if not text.isprintable() or "\\" in text:
        raise ValueError("has characters that no URL has")
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else "file"
    if scheme in _LOCAL:
        scheme = "file"
    rest = text[found.end() :] if found else text
    if scheme == "file" and not rest.startswith("/"):
        raise ValueError("must be an absolute path or a URL such as s3://bucket/name")
    # "::" chains filesystems, "@" carries a password, and "?" and "#" mean something to some servers only.
    if "::" in rest or (scheme != "file" and ("@" in rest.partition("/")[0] or "?" in rest or "#" in rest)):
        raise ValueError("must be a plain URL: no ::, no user, no query")
    segments = tuple(segment for segment in rest.split("/") if segment) if scheme == "file" else _segments(rest)
    for segment in segments:
        # Some filesystems decode a name once more.
        if segment in (".", "..") or any(each in (".", "..") for each in unquote(segment).replace("\\", "/").split("/")):
            raise ValueError("must not have . or .. in its path")
    return Location(scheme, segments)


def _segments(rest: str) -> tuple[str, ...]:
    host, _, path = rest.rstrip("/").partition("/")
    if not host:
        raise ValueError("must name a host or a bucket")
    segments = (host.lower(), *path.split("/")) if path else (host.lower(),)
    if "" in segments:
        raise ValueError("must not have // in its path")
    return segments


def check_allowed(url: str, roots: Iterable[str], param: str) -> str:
    """The URL in its one spelling. Raises InvalidParameter unless it is under one of the roots."""
    try:
        location = parse_location(url)
    except ValueError as error:
        raise InvalidParameter(f"{param}: {error}", param=param) from None
    allowed = [parse_location(root) for root in roots]
    if not allowed:
        raise InvalidParameter(f"{param}: this server reads no URLs; upload the input", param=param)
    if not any(location.is_under(root) for root in allowed):
        raise InvalidParameter(f"{param}: it is under none of the places that this server may read", param=param)
    return location.url


def open_location(url: str, roots: Iterable[str], param: str) -> tuple[BinaryIO, str]:
    """A seekable reader, and what tells one version of the content from another.

    Raises InvalidParameter if it is not allowed any more, also where a link leads out of the roots; NotFound; StorageAway.
    """
    roots = list(roots)
    location = parse_location(check_allowed(url, roots, param))
    try:
        return _open_local(location, roots, param) if location.scheme == "file" else _open_remote(location)
    except UmekomiError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotFound(f"{param}: there is no such file", param=param) from None
    except PermissionError:
        raise NotFound(f"{param}: the worker may not read it", param=param) from None
    except Exception as error:  # every filesystem has errors of its own
        raise StorageAway(f"the source cannot be read: {type(error).__name__}", retry_after_s=5) from error


def _open_local(location: Location, roots: Iterable[str], param: str) -> tuple[BinaryIO, str]:
    real = Path(os.path.realpath(location.url))
    allowed = [Path(os.path.realpath(root.url)) for root in map(parse_location, roots) if root.scheme == "file"]
    if not any(real.is_relative_to(root) for root in allowed):
        raise InvalidParameter(f"{param}: a link leads out of the places that this server may read", param=param)
    # Not a link that came since, and no wait for somebody to write to a pipe.
    descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise NotFound(f"{param}: it is not a file", param=param)
    return os.fdopen(descriptor, "rb"), f"{found.st_size}-{found.st_mtime_ns}"


def _open_remote(location: Location) -> tuple[BinaryIO, str]:
    # Imported here: whoever allows directories alone, or nothing, needs none of it.
    if location.scheme in ("s3", "s3a"):
        from shared.s3 import open_s3

        filesystem, path = open_s3(location.url)
    else:
        from fsspec.core import url_to_fs

        # A redirect could lead anywhere.
        options = {"allow_redirects": False} if location.scheme in ("http", "https") else {}
        filesystem, path = url_to_fs(location.url, use_listings_cache=False, skip_instance_cache=True, **options)
    found: dict[str, Any] = filesystem.info(path)
    if found.get("type") == "directory":
        raise IsADirectoryError(path)
    version = next((str(found[name]) for name in ("ETag", "etag", "LastModified", "mtime", "created") if found.get(name)), "")
    return cast(BinaryIO, filesystem.open(path, "rb")), f"{found.get('size')}-{version}"
