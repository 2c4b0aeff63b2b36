"""A server that speaks the Kubernetes verbs on RayJobs and keeps their state, and KubeRay's part of what follows.

It refuses what the custom resource's schema refuses, and checks the bearer token.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml
from manifests import validate

TOKEN = "the-token-of-a-service-account"
ROOT = "/apis/ray.io/v1/namespaces/slowfast/rayjobs"


@dataclass
class KubernetesApi:
    """`on_create(api, name)` and `on_delete(name)` are what the operator does; both run in threads of the server."""

    on_create: Callable[[KubernetesApi, str], None] = lambda api, name: None
    on_delete: Callable[[str], None] = lambda name: None
    refuses: tuple[int, str] | None = None
    watch_breaks: bool = False  # each watch ends after its first event
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 0

    def __enter__(self) -> KubernetesApi:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, path: Path, token: str = TOKEN) -> Path:
        cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}
        user = {"name": "stage", "user": {"token": token}}
        context = {"name": "it", "context": {"cluster": "here", "user": "stage"}}
        tree = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [user]}
        path.write_text(yaml.safe_dump(tree | {"contexts": [context], "current-context": "it"}))
        return path

    def set_status(self, name: str, **status: str) -> None:
        with self.changed:
            if name in self.jobs:
                self.version += 1
                self.jobs[name] = self.jobs[name] | {"status": status}
                self.jobs[name]["metadata"]["resourceVersion"] = str(self.version)
                self.changed.notify_all()

    def create(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["metadata"]["name"]
        try:
            validate(body)
        except jsonschema.ValidationError as error:
            return 422, error.message
        with self.changed:
            if name in self.jobs:
                return 409, "already exists"
            self.version += 1
            metadata = body["metadata"] | {"uid": str(uuid.uuid4()), "resourceVersion": str(self.version)}
            self.jobs[name] = made = body | {"metadata": metadata}
            self.changed.notify_all()
        threading.Thread(target=self.on_create, args=(self, name), daemon=True).start()
        return 201, made  # by now it may have been removed

    def delete(self, name: str) -> tuple[int, Any]:
        with self.changed:
            if self.jobs.pop(name, None) is None:
                return 404, "not found"
            self.changed.notify_all()
        self.on_delete(name)
        return 200, {"kind": "Status", "status": "Success"}

    def delete_pod(self, uid: str) -> None:
        """Kubernetes removes with a pod what it owns."""
        for name, job in list(self.jobs.items()):
            if uid in {owner["uid"] for owner in job["metadata"].get("ownerReferences", [])}:
                self.delete(name)


def _handler(api: KubernetesApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, body: Any) -> None:
            tree = body if status < 300 else {"kind": "Status", "status": "Failure", "code": status, "message": body}
            data = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _refused(self, verb: str) -> bool:
            length = int(self.headers.get("Content-Length") or 0)
            self.body = json.loads(self.rfile.read(length)) if length else None
            name = urlsplit(self.path).path.removeprefix(ROOT).strip("/")
            api.calls.append(f"{verb} {name}".strip())
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer(401, "Unauthorized")
            elif not urlsplit(self.path).path.startswith(ROOT):
                self._answer(404, "not found")
            elif api.refuses:
                self._answer(*api.refuses)
            else:
                return False
            return True

        @property
        def _name(self) -> str:
            return urlsplit(self.path).path.removeprefix(ROOT).strip("/")

        def do_POST(self) -> None:
            if not self._refused("create"):
                self._answer(*api.create(self.body))

        def do_DELETE(self) -> None:
            if not self._refused("delete"):
                assert self.body["propagationPolicy"] == "Foreground"
                self._answer(*api.delete(self._name))

        def do_GET(self) -> None:
            query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            if self._refused("get" if self._name else "watch"):
                return
            if self._name:
                found = api.jobs.get(self._name)
                self._answer(200, found) if found else self._answer(404, "not found")
                return
            assert query["watch"] == "True"
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the watcher has seen enough
                self._watch(query["fieldSelector"].removeprefix("metadata.name="), float(query["timeoutSeconds"]))

        def _watch(self, name: str, seconds: float) -> None:
            until = time.monotonic() + seconds
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            seen = None
            with api.changed:
                while time.monotonic() < until:
                    job = api.jobs.get(name)
                    if job is None or job["metadata"]["resourceVersion"] != seen:
                        kind = "DELETED" if job is None else "MODIFIED" if seen else "ADDED"
                        line = (
                            json.dumps({"type": kind, "object": job or {"metadata": {"name": name}}}).encode() + b"\n"
                        )
                        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                        seen = job and job["metadata"]["resourceVersion"]
                        if job is None or api.watch_breaks:
                            break
                    api.changed.wait(1)
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    return Handler
