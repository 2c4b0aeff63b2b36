"""A server for the Kubernetes verbs on RayJobs, with their state; tests add what KubeRay does with them.

It rejects what the schema of the custom resource rejects, and checks the bearer token.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml
from loopback import JsonHandler, Loopback
from manifests import validate

TOKEN = "the-token-of-a-service-account"
ROOT = "/apis/ray.io/v1/namespaces/slowfast/rayjobs"


class Handler(JsonHandler):
    api: KubernetesApi
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: Any) -> None:
        tree = body if status < 300 else {"kind": "Status", "status": "Failure", "code": status, "message": body}
        super()._answer(status, tree)

    def _rejected(self, verb: str) -> bool:
        self.body = self._body()
        self.api.calls.append(f"{verb} {self._name}".strip())
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, "Unauthorized")
        elif not urlsplit(self.path).path.startswith(ROOT):
            self._answer(404, "not found")
        elif self.api.rejection:
            self._answer(*self.api.rejection)
        else:
            return False
        return True

    @property
    def _name(self) -> str:
        return urlsplit(self.path).path.removeprefix(ROOT).strip("/")

    def do_POST(self) -> None:
        if not self._rejected("create"):
            self._answer(*self.api.create(self.body))

    def do_DELETE(self) -> None:
        if not self._rejected("delete"):
            assert self.body["propagationPolicy"] == "Foreground"
            self._answer(*self.api.delete(self._name))

    def do_GET(self) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        if self._rejected("get" if self._name else "watch"):
            return
        if self._name:
            found = self.api.jobs.get(self._name)
            self._answer(200, found) if found else self._answer(404, "not found")
            return
        if "watch" not in query:
            key, _, value = query["labelSelector"].partition("=")
            labelled = [job for job in self.api.jobs.values() if job["metadata"].get("labels", {}).get(key) == value]
            self._answer(200, {"kind": "RayJobList", "items": labelled})
            return
        assert query["watch"] == "True"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the watcher has disconnected
            self._watch(query["fieldSelector"].removeprefix("metadata.name="), float(query["timeoutSeconds"]))

    def _watch(self, name: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen = None
        with self.api.changed:
            while time.monotonic() < until:
                job = self.api.jobs.get(name)
                if job is None or job["metadata"]["resourceVersion"] != seen:
                    kind = "DELETED" if job is None else "MODIFIED" if seen else "ADDED"
                    line = json.dumps({"type": kind, "object": job or {"metadata": {"name": name}}}).encode() + b"\n"
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                    seen = job and job["metadata"]["resourceVersion"]
                    if job is None or self.api.watch_ends_early:
                        break
                self.api.changed.wait(1)
        self.wfile.write(b"0\r\n\r\n")


@dataclass
class KubernetesApi(Loopback):
    """`on_create(api, name)` and `on_delete(name)` play the operator; both run in threads of the server."""

    on_create: Callable[[KubernetesApi, str], None] = lambda api, name: None
    on_delete: Callable[[str], None] = lambda name: None
    rejection: tuple[int, str] | None = None  # HTTP status and message of every answer
    watch_ends_early: bool = False  # each watch ends after its first event
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 0

    handler = Handler

    def kubeconfig(self, path: Path, token: str = TOKEN) -> Path:
        cluster = {"name": "here", "cluster": {"server": self.address}}
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
        return 201, made  # it may have been deleted already

    def delete(self, name: str) -> tuple[int, Any]:
        with self.changed:
            if self.jobs.pop(name, None) is None:
                return 404, "not found"
            self.changed.notify_all()
        self.on_delete(name)
        return 200, {"kind": "Status", "status": "Success"}

    def delete_pod(self, uid: str) -> None:
        """Delete the jobs that a pod owns, as Kubernetes does when the pod is deleted."""
        for name, job in list(self.jobs.items()):
            if uid in {owner["uid"] for owner in job["metadata"].get("ownerReferences", [])}:
                self.delete(name)
