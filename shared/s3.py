"""S3 as storage uses it: s3fs with every call bounded in time."""

from __future__ import annotations

import asyncio
from typing import Any

import fsspec
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

# An S3 that is away is noticed within seconds by these, except while a body is sent, on which there is no timeout at all …
_OPTIONS: dict[str, Any] = {
    "connect_timeout": 2,
    "read_timeout": 10,
    "retries": {"mode": "standard", "total_max_attempts": 2},
    "max_pool_connections": 64,
}
# … so that each call, tries and all, has this one over it. A block of BLOCK_BYTES needs 4 Mbit/s to be through by then.
CALL_S = 30.0
BLOCK_BYTES = 16 * 2**20


class BoundedS3(S3FileSystem):  # type: ignore[misc]
    """Raises TimeoutError where s3fs would wait for ever."""

    retries = 2
    default_block_size = BLOCK_BYTES

    async def _call_s3(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.wait_for(super()._call_s3(*args, **kwargs), CALL_S)

    call_s3 = sync_wrapper(_call_s3)


def open_s3(url: str) -> tuple[BoundedS3, str]:
    """A filesystem of its own for s3://BUCKET/PREFIX, and BUCKET/PREFIX. Credentials and endpoint come from AWS's variables."""
    configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    # No listing cache: other processes write beside us.
    filesystem = BoundedS3(config_kwargs=_OPTIONS | configured, use_listings_cache=False, skip_instance_cache=True)
    return filesystem, filesystem._strip_protocol(url)
