"""A proxy in front of an S3 endpoint that logs the requests and misbehaves on demand."""

from __future__ import annotations

import http.client
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REQUEST_FAULTS = ("InternalError", "SlowDown", "reset")
BODY_FAULTS = ("reset body", "cut", "corrupt", "slow", "stall")
ERRORS = {
    "InternalError": 500,
    "SlowDown": 503,
    "AccessDenied": 403,
    "InvalidObjectState": 403,
    "SignatureDoesNotMatch": 403,
    "MethodNotAllowed": 405,
    "ExpiredToken": 400,
}


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # of the URL, unquoted
    query: str
    range: str  # of the object: "bytes=0-9", or "" for the whole object
    payer: str  # the value of the request-payer header
    nth: int  # number of equal requests before this one

    @property
    def key(self) -> str:
        """Key of the object that a request reads, without the bucket; "" for other requests."""
        reads = self.method == "GET" and "list-type" not in self.query
        return self.path.split("/", 2)[2] if reads else ""

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


@dataclass(frozen=True)
class SeededFaults:
    """Random faults that depend on the request alone, not on thread timing; at most `in_a_row` consecutive ones."""

    seed: int
    share: float
    in_a_row: int = 3

    def __call__(self, request: Request) -> str | None:
        chance = random.Random(f"{self.seed} {request.method} {request.key} {request.range} {request.nth}")
        strikes = request.nth % (self.in_a_row + 1) < self.in_a_row and chance.random() < self.share
        return chance.choice(REQUEST_FAULTS + BODY_FAULTS if request.key else REQUEST_FAULTS) if strikes else None


class FaultyProxy:
    """Forwards to `upstream`. `fault(request)` is one of REQUEST_FAULTS, ERRORS or, for objects, BODY_FAULTS."""

    def __init__(self, upstream: str, stall_seconds: float = 60) -> None:
        self.fault: Callable[[Request], str | None] = lambda request: None
        self.log: list[tuple[Request, str | None]] = []
        self.stalled = threading.Event()
        self.stall_seconds = stall_seconds
        self.released = threading.Event()
        self.running, self.max_running = 0, 0  # responses in progress
        self._upstream = urlsplit(upstream)
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def names_read(self) -> list[str]:
        """Names of the objects read, one for each request, in order."""
        return [request.name for request, _ in self.log if request.key]

    @property
    def faults(self) -> Counter[str]:
        return Counter(fault for _, fault in self.log if fault)

    def log_request(self, method: str, url: str, range_: str, payer: str) -> str | None:
        path, _, query = url.partition("?")
        with self._lock:
            nth = self._seen[method, url, range_]
            self._seen[method, url, range_] += 1
            request = Request(method, unquote(path), query, range_, payer, nth)
            fault = self.fault(request)
            self.log.append((request, fault))
        return fault

    def count_running(self, step: int) -> None:
        with self._lock:
            self.running += step
            self.max_running = max(self.max_running, self.running)

    def forward(
        self, method: str, url: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        secure = self._upstream.scheme == "https"
        connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(self._upstream.netloc)
        try:
            connection.request(method, url, body or None, headers)
            reply = connection.getresponse()
            return reply, reply.read()
        finally:
            connection.close()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"

    def do(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.log_request(
            self.command, self.path, self.headers.get("Range", ""), self.headers.get("x-amz-request-payer", "")
        )
        if fault == "reset":
            self.reset()
        elif fault in ERRORS:
            text = f"<Error><Code>{fault}</Code><Message>a fault on demand</Message></Error>"
            self.answer(ERRORS[fault], {"Content-Type": "application/xml"}, text.encode(), None)
        else:
            reply, body = self.proxy.forward(self.command, self.path, sent, dict(self.headers))
            self.answer(reply.status, dict(reply.headers), body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do

    def answer(self, status: int, headers: dict[str, str], body: bytes, fault: str | None) -> None:
        self.send_response(status)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(body, fault)

    def send_body(self, body: bytes, fault: str | None) -> None:
        half = len(body) // 2
        if fault == "corrupt" and body:
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
        if fault == "slow":
            self.proxy.count_running(1)
            for start in range(0, half, half // 8 + 1):
                self.wfile.write(body[start : min(start + half // 8 + 1, half)])
                time.sleep(0.01)
            self.proxy.count_running(-1)
            self.wfile.write(body[half:])
        elif fault in ("cut", "reset body", "stall"):
            self.wfile.write(body[:half])
            self.close_connection = True
            if fault == "stall":
                self.proxy.stalled.set()
                self.proxy.released.wait(self.proxy.stall_seconds)
            elif fault == "reset body":
                self.reset()
        else:
            self.wfile.write(body)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has disconnected or was killed
            self.close_connection = True
