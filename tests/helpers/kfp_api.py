"""A server for the Kubeflow Pipelines v2beta1 API, checked by the OpenAPI schema that kfp_server_api is generated from.

It rejects bodies with unknown keys or wrong types, pipelines that do not parse, and unknown tokens. It stores
experiments, runs and recurring runs. Tests can make it fail.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

OUTPUT_ONLY = {"run_id", "recurring_run_id", "created_at", "updated_at", "finished_at", "state", "run_details"}
PRIMITIVES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check(value: Any, kind: str, where: str) -> None:
    """Check that `value` is of the OpenAPI type `kind` and has no unknown keys."""
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        expect(isinstance(value, list), where, kind)
        for item in value:
            check(item, listed[1], where)
    elif mapped := re.fullmatch(r"dict\(str, (.+)\)", kind):
        expect(isinstance(value, dict), where, kind)
        for key, item in value.items():
            check(item, mapped[1], f"{where}.{key}")
    elif kind == "datetime":
        datetime.datetime.fromisoformat(value)
    elif kind in PRIMITIVES:
        expect(isinstance(value, PRIMITIVES[kind]) and (kind != "int" or not isinstance(value, bool)), where, kind)
    elif kind != "object":
        check_model(value, getattr(kfp_server_api, kind), where)


def check_model(value: Any, model: Any, where: str) -> None:
    if allowed := getattr(model, "allowable_values", None):
        expect(value in allowed, where, f"one of {allowed}")
        return
    expect(isinstance(value, dict), where, model.__name__)
    names = {key: name for name, key in model.attribute_map.items()}
    for key, item in value.items():
        expect(key in names, f"{where}.{key}", f"a field of {model.__name__}")
        check(item, model.openapi_types[names[key]], f"{where}.{key}")


def expect(right: bool, where: str, what: str) -> None:
    if not right:
        raise Refused(400, f"Invalid input: {where} is not {what}")


@dataclass
class KubeflowPipelines:
    """State of the server. A `token` of "" accepts every request; `failure` may return a status to fail with."""

    token: str = ""
    multi_user: bool = True
    url: str = ""
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    failure: Callable[[str, str], int | None] = lambda method, path: None
    hang_seconds: float = 0.0

    def answer(self, method: str, target: str, authorization: str, body: Any) -> dict[str, Any]:
        parts = urlsplit(target)
        path, query = parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.requests.append((method, path))
        if status := self.failure(method, path):
            raise Refused(status, f"requested failure {status}")
        time.sleep(self.hang_seconds)
        if self.token and authorization != f"Bearer {self.token}":
            raise Refused(401, "Unauthenticated")
        for (verb, pattern), handle in ROUTES.items():
            if verb == method and (found := re.fullmatch(f"/apis/v2beta1/{pattern}", path)):
                return handle(self, *found.groups(), query if method == "GET" else body)
        raise Refused(404, f"no route {method} {path}")

    def health(self, query: dict[str, str]) -> dict[str, Any]:
        return {"multi_user": self.multi_user, "pipeline_store": "database"}

    def list_experiments(self, query: dict[str, str]) -> dict[str, Any]:
        self._namespace(query.get("namespace"))
        wanted = json.loads(query.get("filter", '{"predicates": []}'))
        check_model(wanted, kfp_server_api.V2beta1Filter, "filter")
        found = [
            one
            for one in self.experiments.values()
            if all(one[rule["key"]] == rule["string_value"] for rule in wanted["predicates"])
        ]
        return {"experiments": found, "total_size": len(found)} if found else {}

    def create_experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        check_model(body, kfp_server_api.V2beta1Experiment, "experiment")
        self._namespace(body.get("namespace"))
        if any(one["display_name"] == body["display_name"] for one in self.experiments.values()):
            raise Refused(409, f"the experiment {body['display_name']} already exists")
        return _store(self.experiments, "experiment_id", body)

    def create_run(self, body: dict[str, Any]) -> dict[str, Any]:
        check_model(body, kfp_server_api.V2beta1Run, "run")
        self._check_new(body)
        return _store(self.runs, "run_id", {**body, "state": "PENDING", "created_at": _now()})

    def get_run(self, run_id: str, query: dict[str, str]) -> dict[str, Any]:
        return self._run(run_id)

    def terminate(self, run_id: str, body: Any) -> dict[str, Any]:
        run = self._run(run_id)
        if run["state"] not in ("PENDING", "RUNNING"):
            raise Refused(400, f"the run is {run['state']} and cannot be terminated")
        run["state"] = "CANCELING"
        return {}

    def create_recurring(self, body: dict[str, Any]) -> dict[str, Any]:
        check_model(body, kfp_server_api.V2beta1RecurringRun, "recurring_run")
        self._check_new(body)
        expect(body["max_concurrency"].isdigit() and int(body["max_concurrency"]) >= 1, "max_concurrency", "1 to 10")
        cron = body["trigger"]["cron_schedule"]["cron"]
        expect(len(cron.split()) == 6, "trigger.cron_schedule.cron", "of six fields")
        made = {**body, "status": "ENABLED", "created_at": _now()}
        return _store(self.recurring, "recurring_run_id", made)

    def list_recurring(self, query: dict[str, str]) -> dict[str, Any]:
        found = [one for one in self.recurring.values() if one["experiment_id"] == query["experiment_id"]]
        start, size = int(query.get("page_token") or 0), 1  # pages of one item, so that clients must request more pages
        after = str(start + size) if start + size < len(found) else ""
        return {"recurringRuns": found[start : start + size], "total_size": len(found), "next_page_token": after}

    def delete_recurring(self, recurring_run_id: str, body: Any) -> dict[str, Any]:
        if self.recurring.pop(recurring_run_id, None) is None:
            raise Refused(404, f"recurring run {recurring_run_id} not found")
        return {}

    def _run(self, run_id: str) -> dict[str, Any]:
        if run_id not in self.runs:
            raise Refused(404, f"run {run_id} not found")
        return self.runs[run_id]

    def _check_new(self, body: dict[str, Any]) -> None:
        expect(not OUTPUT_ONLY & set(body), "the body", f"without {OUTPUT_ONLY & set(body)}, which the server sets")
        expect(bool(body.get("display_name")), "display_name", "given")
        if body.get("experiment_id") not in self.experiments:
            raise Refused(404, f"experiment {body.get('experiment_id')} not found")
        documents = body["pipeline_spec"]
        try:
            spec = json_format.ParseDict(documents["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
            json_format.ParseDict(documents["platform_spec"], pipeline_spec_pb2.PlatformSpec())
        except json_format.ParseError as error:
            raise Refused(400, str(error)) from None
        known = set(spec.root.input_definitions.parameters)
        expect(set(body["runtime_config"].get("parameters", {})) <= known, "runtime_config", f"only {known}")

    def _namespace(self, given: str | None) -> None:
        if bool(given) != self.multi_user:
            raise Refused(400, "Invalid input: a namespace is required in multi-user mode, and only there")


Handler = Callable[..., dict[str, Any]]
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "healthz"): KubeflowPipelines.health,
    ("GET", "experiments"): KubeflowPipelines.list_experiments,
    ("POST", "experiments"): KubeflowPipelines.create_experiment,
    ("POST", "runs"): KubeflowPipelines.create_run,
    ("GET", "runs/([^/:]+)"): KubeflowPipelines.get_run,
    ("POST", "runs/([^/:]+):terminate"): KubeflowPipelines.terminate,
    ("POST", "recurringruns"): KubeflowPipelines.create_recurring,
    ("GET", "recurringruns"): KubeflowPipelines.list_recurring,
    ("DELETE", "recurringruns/([^/:]+)"): KubeflowPipelines.delete_recurring,
}


def _store(kind: dict[str, dict[str, Any]], key: str, body: dict[str, Any]) -> dict[str, Any]:
    made = {**body, key: str(uuid.uuid4())}
    kind[made[key]] = made
    return made


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


@contextmanager
def serve(api: KubeflowPipelines) -> Iterator[KubeflowPipelines]:
    class Requests(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            try:
                status, answer = (
                    200,
                    api.answer(self.command, self.path, self.headers.get("Authorization", ""), _json(raw)),
                )
            except Refused as error:
                status, answer = error.status, {"error": str(error), "code": 3, "message": str(error), "details": []}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Ignore disconnected clients, which the test of the time-out causes."""

    server = Quiet(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _json(raw: bytes) -> Any:
    return json.loads(raw) if raw else None
