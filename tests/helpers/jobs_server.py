"""A server that speaks as much of Ray's Jobs API as its client asks for, and fails as one does behind a proxy."""

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
            self.api.asked.append(name)
            refused = self.api.refuses.pop(0) if self.api.refuses else 0
            self._answer(refused or 200, "upstream" if refused else _details(name, self.api.jobs[name]))

    def do_POST(self) -> None:
        body = self._body() or {}
        if self.path.endswith("/stop"):
            name = self.path.split("/")[-2]
            there = name in self.api.jobs
            if there:
                self.api.jobs[name] = "STOPPED"
            self._answer(200 if there else 404, {"stopped": True} if there else f"Job {name} does not exist")
        elif self.api.refuses_submissions or body["submission_id"] in self.api.jobs:
            self._answer(self.api.refuses_submissions or 500, "refused")
        else:
            self.api.jobs[body["submission_id"]] = "RUNNING"
            self.api.on_submit(body["submission_id"])
            self._answer(200, {"job_id": "1", "submission_id": body["submission_id"]})


@dataclass
class JobsServer(Loopback):
    """`jobs` is the status of each submission. `on_submit(id)` is called after it was taken, before the answer."""

    jobs: dict[str, str] = field(default_factory=dict)
    on_submit: Callable[[str], None] = lambda submission: None
    refuses: list[int] = field(default_factory=list)  # the statuses of the next answers about a job
    refuses_submissions: int | None = None
    asked: list[str] = field(default_factory=list)
    handler = Handler


def _details(submission: str, status: str) -> dict[str, Any]:
    return {"type": "SUBMISSION", "entrypoint": "", "submission_id": submission, "status": status, "message": "m"}
