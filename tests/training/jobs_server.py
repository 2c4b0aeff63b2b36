"""A server that speaks as much of Ray's Jobs API as its client asks for, and fails as one does behind a proxy."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class JobsServer:
    """`jobs` is the status of each submission. `on_submit(id)` is called after it was taken, before the answer."""

    jobs: dict[str, str] = field(default_factory=dict)
    on_submit: Callable[[str], None] = lambda submission: None
    refuses: list[int] = field(default_factory=list)  # the statuses of the next answers about a job
    refuses_submissions: int | None = None
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> JobsServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


def _handler(api: JobsServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            name = self.path.removeprefix("/api/jobs/").strip("/")
            if self.path == "/api/version":
                self._answer(200, {"version": "4", "ray_version": "2", "ray_commit": "", "session_name": ""})
            elif self.path == "/api/jobs/":
                self._answer(200, [_details(*job) for job in api.jobs.items()])
            elif name not in api.jobs:
                self._answer(404, f"Job {name} does not exist")
            else:
                api.asked.append(name)
                refused = api.refuses.pop(0) if api.refuses else 0
                self._answer(refused or 200, "upstream" if refused else _details(name, api.jobs[name]))

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "{}")
            if self.path.endswith("/stop"):
                name = self.path.split("/")[-2]
                there = name in api.jobs
                if there:
                    api.jobs[name] = "STOPPED"
                self._answer(200 if there else 404, {"stopped": True} if there else f"Job {name} does not exist")
            elif api.refuses_submissions or body["submission_id"] in api.jobs:
                self._answer(api.refuses_submissions or 500, "refused")
            else:
                api.jobs[body["submission_id"]] = "RUNNING"
                api.on_submit(body["submission_id"])
                self._answer(200, {"job_id": "1", "submission_id": body["submission_id"]})

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _details(submission: str, status: str) -> dict[str, Any]:
    return {"type": "SUBMISSION", "entrypoint": "", "submission_id": submission, "status": status, "message": "m"}
