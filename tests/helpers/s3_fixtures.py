"""Fixtures: an S3 endpoint on loopback, or the one named by the environment."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ENDPOINT = "SLOWFAST_TEST_S3_ENDPOINT"  # environment variable: an endpoint to test on, with the user's AWS settings


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    if endpoint := os.environ.get(ENDPOINT):
        yield endpoint
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The endpoint, with credentials for it; on loopback without the user's own AWS settings."""
    if ENDPOINT in os.environ:
        return s3_server
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_server


@pytest.fixture
def new_bucket(s3: str) -> Iterator[Callable[[], str]]:
    """Create buckets with unique names; they are deleted after the test."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    names: list[str] = []

    def make() -> str:
        names.append(f"slowfast-{uuid.uuid4().hex[:12]}")
        client.create_bucket(Bucket=names[-1])
        return names[-1]

    yield make
    for name in names:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=name)
        for found in (page["Contents"] for page in pages if page.get("Contents")):
            client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": entry["Key"]} for entry in found]})
        client.delete_bucket(Bucket=name)
