"""Which umekomi this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def umekomi_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("umekomi")
    except PackageNotFoundError:
        return "unknown"  # run from a source tree that is not installed
