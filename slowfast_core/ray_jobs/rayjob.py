"""Runs a stage as a RayJob, which this process creates, watches and removes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from slowfast_core.errors import InputError
from slowfast_core.ray_jobs.jobs_api import connect, streamed_logs
from slowfast_core.ray_jobs.rayjob_manifest import GRACE_SECONDS, rayjob_of
from slowfast_core.ray_jobs.rayjob_settings import RUN_LABEL, RayJobSettings
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.recipe.load import Recipe

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
ENDED = ("Complete", "Failed", "ValidationFailed")  # ValidationFailed: KubeRay refuses the resource
WATCH_SECONDS = 30  # length of one watch; the next starts from the current state
LOST_SECONDS = 300.0  # time without an answer before Kubernetes counts as lost
GONE_SECONDS = GRACE_SECONDS + 60.0  # time for a deleted RayJob to disappear, after its pods
Answer = TypeVar("Answer")


def run_rayjob(job: StageJob, recipe: Recipe) -> str:
    """Run the job to its end; returns why it failed, or "". The RayJob is always removed at the end.

    If this process is killed, Kubernetes removes the RayJob with the pod that owns it. Raises InputError if Kubernetes
    refuses the RayJob.
    """
    settings = RayJobSettings.from_environment()
    jobs = RayJobs(settings.namespace)
    resource = rayjob_of(job, recipe, settings, owner_pod())
    try:
        jobs.create(resource, job.begin)
        print(f"{job.stage} is RayJob {job.name} of namespace {settings.namespace}", file=sys.stderr)
        return _wait(jobs, job.name)
    finally:
        jobs.delete(resource)


def remove_rayjobs(run: str, namespace: str) -> list[str]:
    """Delete the RayJobs that a pipeline run left in the namespace; return their names. Raises InputError.

    A stage whose pod is killed, for example for memory, cannot delete its RayJob, and Kubernetes deletes it only with
    the pod, which Argo keeps.
    """
    return RayJobs(namespace).delete_all(f"{RUN_LABEL}={run}")


def owner_pod() -> dict[str, Any] | None:
    """Return an owner reference to the pod of this process, from Kubeflow's variables; None outside a pipeline."""
    name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
    if not name or not uid:
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": True}


def _wait(jobs: RayJobs, name: str) -> str:
    with ExitStack() as logs:
        followed = False
        for found in jobs.watch(name):
            status = found.get("status") or {}
            where, submission = status.get("dashboardURL"), status.get("jobId")
            if status.get("jobDeploymentStatus") == "Running" and where and submission and not followed:
                followed = _follow_logs(logs, f"http://{where}", submission)
            if _ended(found):
                ended = status.get("jobStatus") or status["jobDeploymentStatus"]
                message = " ".join(f"{status.get('reason') or ''} {status.get('message') or ''}".split())
                return "" if ended == "SUCCEEDED" else f"{ended.lower()}: {message}"
    return "its RayJob was removed"


def _follow_logs(stack: ExitStack, address: str, submission: str) -> bool:
    """Copy the job's output from the Jobs API of its cluster; a log that cannot be read does not fail the job."""
    try:
        stack.enter_context(streamed_logs(connect(address), submission))
    except InputError as error:
        print(f"slowfast: the log of the RayJob cannot be shown: {error}", file=sys.stderr)
    return True


class RayJobs:
    """The Kubernetes API as far as it concerns RayJobs of one namespace: create, watch, delete."""

    def __init__(self, namespace: str) -> None:
        from kubernetes import client, config

        try:
            # The library reads KUBECONFIG only once, when it is imported.
            config.load_config(**({"config_file": file} if (file := os.environ.get("KUBECONFIG")) else {}))
        except config.ConfigException as error:
            fix = "run it in a pod, or set KUBECONFIG"
            raise InputError("no Kubernetes cluster", " ".join(str(error).split()), fix) from None
        self.namespace = namespace
        self._api = client.CustomObjectsApi()
        self._place = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}

    def create(self, resource: dict[str, Any], begin: Callable[[], None]) -> None:
        """Create the RayJob, or join a running one of this pod. One of another, ended pod is deleted first."""
        name = resource["metadata"]["name"]
        if found := self._get(name):
            if _same_owner(found, resource) and not _leaving(found) and not _ended(found):
                return
            self._delete(name)
            self._wait_until_gone(name)
        begin()
        if self._asked(lambda: self._api.create_namespaced_custom_object(body=resource, **self._place)):
            return
        if not (found := self._get(name)):
            raise InputError("Kubernetes does not know RayJobs", self._where, "install the KubeRay operator")
        if not _same_owner(found, resource):
            raise InputError("another pod runs this stage", f"RayJob {name}", "wait for it, or stop it")

    def watch(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield each state of the RayJob until it is removed."""
        from kubernetes.watch import Watch

        where = {**self._place, "field_selector": f"metadata.name={name}", "timeout_seconds": WATCH_SECONDS}
        where["_request_timeout"] = 2 * WATCH_SECONDS
        while found := self._get(name):
            yield found
            for event in self._events(Watch().stream(self._api.list_namespaced_custom_object, **where)):
                if event["type"] == "DELETED":
                    return
                yield event["object"]

    def delete(self, resource: dict[str, Any]) -> None:
        """Delete the RayJob and its dependents, unless another pod owns it. It is no error if it does not exist."""
        from kubernetes.client import ApiException

        name = resource["metadata"]["name"]
        try:
            if (found := self._get(name)) and _same_owner(found, resource):
                self._delete(name)
        except (InputError, ApiException) as error:
            reason = " ".join(str(error).split())
            print(f"slowfast: RayJob {name} could not be removed: {reason}", file=sys.stderr)

    def delete_all(self, selector: str) -> list[str]:
        """Delete the RayJobs with these labels and their dependents; return their names."""
        found = self._asked(lambda: self._api.list_namespaced_custom_object(label_selector=selector, **self._place))
        names = [item["metadata"]["name"] for item in (found or {"items": []})["items"] if not _leaving(item)]
        for name in names:
            self._delete(name)
        return names

    def _delete(self, name: str) -> None:
        from kubernetes.client import V1DeleteOptions

        options = V1DeleteOptions(propagation_policy="Foreground")
        self._asked(lambda: self._api.delete_namespaced_custom_object(name=name, body=options, **self._place))

    def _events(self, stream: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield events; a broken watch is not an error, because the next one starts from the current state."""
        import urllib3
        from kubernetes.client import ApiException

        try:
            yield from stream
        except (urllib3.exceptions.HTTPError, ApiException):
            time.sleep(1)

    def _get(self, name: str) -> dict[str, Any] | None:
        answer = self._asked(lambda: self._api.get_namespaced_custom_object(name=name, **self._place))
        return dict(answer) if answer else None

    def _wait_until_gone(self, name: str) -> None:
        since = time.monotonic()
        while self._get(name):
            if time.monotonic() - since > GONE_SECONDS:
                fix = "check why its finalizer does not end"
                raise InputError("the RayJob of an earlier run is not removed", f"{self.namespace}/{name}", fix)
            time.sleep(1)

    def _asked(self, ask: Callable[[], Answer]) -> Answer | None:
        """Return the answer; None if the RayJob does not exist (404) or already exists (409). Retries lost requests."""
        import urllib3
        from kubernetes.client import ApiException

        since = time.monotonic()
        while True:
            try:
                return ask()
            except ApiException as error:
                if error.status in (404, 409):
                    return None
                if 400 <= error.status < 500 and error.status != 429:
                    what = f"Kubernetes refused a RayJob: {error.status} {error.reason}"
                    fix = "give the service account the verbs on rayjobs, or correct the settings"
                    raise InputError(what, self._where, fix) from None
                if time.monotonic() - since > LOST_SECONDS:
                    raise
            except urllib3.exceptions.HTTPError:
                if time.monotonic() - since > LOST_SECONDS:
                    raise
            time.sleep(1)

    @property
    def _where(self) -> str:
        return f"namespace {self.namespace}"


def _same_owner(one: dict[str, Any], other: dict[str, Any]) -> bool:
    first, second = ({owner["uid"] for owner in it["metadata"].get("ownerReferences") or []} for it in (one, other))
    return first == second


def _leaving(found: dict[str, Any]) -> bool:
    return "deletionTimestamp" in found["metadata"]


def _ended(found: dict[str, Any]) -> bool:
    return (found.get("status") or {}).get("jobDeploymentStatus") in ENDED
