"""Fixtures: a proxy in front of the S3 endpoint that injects faults, and the upload of folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from faulty_proxy import FaultyProxy


@pytest.fixture
def proxy(s3: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(s3)
    yield proxy
    proxy.close()


@pytest.fixture
def upload(s3: str, new_bucket: Callable[[], str]) -> Callable[..., str]:
    """Copy a folder to an s3:// address, or below a prefix of a new bucket; return the address."""

    def put(folder: Path, root: str | None = None) -> str:
        client = boto3.client("s3", endpoint_url=s3)
        root = root or f"s3://{new_bucket()}/sets/one"
        _, _, bucket, prefix = root.split("/", 3)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        return root

    return put
