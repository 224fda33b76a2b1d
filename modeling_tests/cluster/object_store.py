"""An object store that speaks the protocol of S3, on this machine: moto's server."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Bucket:
    """A bucket: `url` for fsspec; `environment` tells clients where its store is."""

    url: str
    environment: dict[str, str]


@contextmanager
def object_store(host: str, port: int = 0) -> Iterator[Bucket]:
    """A store with one empty bucket at an address of this machine, until the block ends."""
    server_of = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    logging.getLogger("werkzeug").setLevel("ERROR")
    server = server_of.ThreadedMotoServer(host, port, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        client = boto3.client(
            "s3",
            endpoint_url=address,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="corpus")
        environment = {**keys, "AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true"}
        yield Bucket("s3://corpus", {**environment, "NO_PROXY": f"{host},{os.environ.get('NO_PROXY', '')}"})
    finally:
        server.stop()
