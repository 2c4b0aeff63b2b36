"""A real S3 endpoint on loopback, and a proxy in front of it that can be told to misbehave."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer


class S3Proxy:
    """Forwards to `upstream`, and lists the objects read. `cut` bodies come short; after `stall_after` none comes."""

    def __init__(self, upstream: str) -> None:
        self.read: list[str] = []
        self.cut = 0
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, upstream, threading.Lock()))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stall(self) -> None:
        self.stalled.set()
        self._released.wait(60)

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: S3Proxy, upstream: str, lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_object = "list-type" not in self.path
            with lock:
                stalls = is_object and proxy.stall_after is not None and len(proxy.read) >= proxy.stall_after
                cuts = is_object and proxy.cut > 0
                proxy.cut -= cuts
                if is_object and not stalls:
                    proxy.read.append(self.path.rpartition("/")[2])
            if stalls:
                proxy.stall()
                return
            try:
                reply = urllib.request.urlopen(urllib.request.Request(upstream + self.path, headers=dict(self.headers)))
            except urllib.error.HTTPError as error:
                reply = error
            with reply:
                body = reply.read()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cuts else body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The endpoint, with credentials for it and none of the user's own settings."""
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
def proxy(s3: str) -> Iterator[S3Proxy]:
    proxy = S3Proxy(s3)
    yield proxy
    proxy.close()


@pytest.fixture
def upload(s3: str) -> Callable[..., str]:
    """Copy a folder to an s3:// address, or below a prefix of a new bucket; return the address."""

    def put(folder: Path, root: str | None = None) -> str:
        client = boto3.client("s3", endpoint_url=s3)
        if root is None:
            root = f"s3://bucket-{uuid.uuid4().hex[:12]}/sets/one"
            client.create_bucket(Bucket=root.split("/")[2])
        _, _, bucket, prefix = root.split("/", 3)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        return root

    return put
