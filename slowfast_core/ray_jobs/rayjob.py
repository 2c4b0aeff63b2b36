"""A stage as a RayJob that this process creates, watches and removes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from slowfast_core.errors import InputError
from slowfast_core.ray_jobs.jobs_api import connect, streamed_logs
from slowfast_core.ray_jobs.rayjob_manifest import rayjob_of
from slowfast_core.ray_jobs.rayjob_settings import RayJobSettings
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.recipe.load import Recipe

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
ENDED = ("Complete", "Failed", "ValidationFailed")  # the last: KubeRay does not begin it, and says why
WATCH_SECONDS = 30  # of one watch; the next begins with the state as it is
LOST_SECONDS = 300.0  # for which Kubernetes may not answer
GONE_SECONDS = 120.0  # for one that is being removed
Answer = TypeVar("Answer")


def run_rayjob(job: StageJob, recipe: Recipe) -> str:
    """Run the job to its end; returns why it failed, or "". However this call ends, the RayJob is removed.

    The process may die too: its pod owns the RayJob. Raises InputError when Kubernetes refuses.
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


def owner_pod() -> dict[str, Any] | None:
    """The reference to the pod of this process, by the variables that Kubeflow sets; None outside of a pipeline."""
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
                said = " ".join(f"{status.get('reason') or ''} {status.get('message') or ''}".split())
                return "" if ended == "SUCCEEDED" else f"{ended.lower()}: {said}"
    return "its RayJob was removed"


def _follow_logs(stack: ExitStack, address: str, submission: str) -> bool:
    """What the job prints, from the Jobs API of its own cluster; a job without its log is still a job."""
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
            # The library itself looks at the variable once, when it is imported.
            config.load_config(**({"config_file": file} if (file := os.environ.get("KUBECONFIG")) else {}))
        except config.ConfigException as error:
            mend = "run it in a pod, or set KUBECONFIG"
            raise InputError("no Kubernetes cluster", " ".join(str(error).split()), mend) from None
        self.namespace = namespace
        self._api = client.CustomObjectsApi()
        self._place = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}

    def create(self, resource: dict[str, Any], begin: Callable[[], None]) -> None:
        """Create it, or take the one that is there, ours and at work. Another pod's goes first: that pod has ended."""
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
            raise InputError("Kubernetes knows no RayJobs", self._where, "install the KubeRay operator")
        if not _same_owner(found, resource):
            raise InputError("another pod runs this stage", f"RayJob {name}", "wait for it, or stop it")

    def watch(self, name: str) -> Iterator[dict[str, Any]]:
        """Each state of the RayJob, until it is removed."""
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
        """With all that belongs to it, unless it is another pod's; no error where it is gone."""
        from kubernetes.client import ApiException

        name = resource["metadata"]["name"]
        try:
            if (found := self._get(name)) and _same_owner(found, resource):
                self._delete(name)
        except (InputError, ApiException) as error:
            reason = " ".join(str(error).split())
            print(f"slowfast: RayJob {name} could not be removed: {reason}", file=sys.stderr)

    def _delete(self, name: str) -> None:
        from kubernetes.client import V1DeleteOptions

        options = V1DeleteOptions(propagation_policy="Foreground")
        self._asked(lambda: self._api.delete_namespaced_custom_object(name=name, body=options, **self._place))

    def _events(self, stream: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """A watch that breaks off is none that fails: the next one begins with the state as it is."""
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
                mend = "see why its finalizer does not end"
                raise InputError("the RayJob of a run before is not removed", f"{self.namespace}/{name}", mend)
            time.sleep(1)

    def _asked(self, ask: Callable[[], Answer]) -> Answer | None:
        """The answer; None where there is no such RayJob, or one already. Asked again while nobody answers."""
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
                    mend = "give the service account the verbs on rayjobs, or correct the settings"
                    raise InputError(what, self._where, mend) from None
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
