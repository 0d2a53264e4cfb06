"""An S3 on loopback (moto's server), in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

BUCKET = "umekomi-tests"


@dataclass(frozen=True, slots=True)
class S3:
    """A running server with one bucket."""

    endpoint: str
    url: str  # of the bucket, for storage
    client: Any  # boto3's

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment in which storage finds it."""
        return variables(self.endpoint)


def variables(endpoint: str) -> dict[str, str]:
    """AWS's variables for an S3 at this address."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


@contextmanager
def running_s3() -> Iterator[S3]:
    """Starts it, and stops it at the end."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket=BUCKET)
    try:
        yield S3(endpoint, f"s3://{BUCKET}", client)
    finally:
        client.close()
        server.stop()
