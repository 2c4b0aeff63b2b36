"""A server for the part of Ray's Jobs API that its client uses; it can fail like a server behind a proxy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loopback import JsonHandler, Loopback


class Handler(JsonHandler):
    api: JobsServer

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/jobs/").strip("/")
        if self.path == "/api/version":
            self._answer(200, {"version": "4", "ray_version": "2", "ray_commit": "", "session_name": ""})
        elif self.path == "/api/jobs/":
            self._answer(200, [_details(*job) for job in self.api.jobs.items()])
        elif name not in self.api.jobs:
            self._answer(404, f"Job {name} does not exist")
        else:
            self.api.queried.append(name)
            refused = self.api.next_errors.pop(0) if self.api.next_errors else 0
            self._answer(refused or 200, "upstream" if refused else _details(name, self.api.jobs[name]))

    def do_POST(self) -> None:
        body = self._body() or {}
        if self.path.endswith("/stop"):
            name = self.path.split("/")[-2]
            known = name in self.api.jobs
            if known:
                self.api.jobs[name] = "STOPPED"
            self._answer(200 if known else 404, {"stopped": True} if known else f"Job {name} does not exist")
        elif self.api.submission_error or body["submission_id"] in self.api.jobs:
            self._answer(self.api.submission_error or 500, "refused")
        else:
            self.api.jobs[body["submission_id"]] = "RUNNING"
            self.api.on_submit(body["submission_id"])
            self._answer(200, {"job_id": "1", "submission_id": body["submission_id"]})


@dataclass
class JobsServer(Loopback):
    """`jobs` maps submission ids to statuses. `on_submit(id)` is called when a job was accepted, before the answer."""

    jobs: dict[str, str] = field(default_factory=dict)
    on_submit: Callable[[str], None] = lambda submission: None
    next_errors: list[int] = field(default_factory=list)  # HTTP statuses of the next answers to queries of a job
    submission_error: int | None = None  # HTTP status of all answers to submissions
    queried: list[str] = field(default_factory=list)  # ids of the jobs whose status was requested
    handler = Handler


def _details(submission: str, status: str) -> dict[str, Any]:
    return {"type": "SUBMISSION", "entrypoint": "", "submission_id": submission, "status": status, "message": "m"}
