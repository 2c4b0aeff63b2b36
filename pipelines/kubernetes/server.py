"""Requests to the Kubeflow Pipelines API, with timeouts, limited retries and one-line errors.

Uses kfp_server_api, the generated client on which kfp.Client is built. kfp.Client has neither timeouts nor a setting
for retries, prints links to stdout, reads the namespace and cookies from a file in the home directory, and its look-up
of an experiment deviates from the published API. Working around that takes more code than kfp.Client saves.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from pipelines.kubernetes.settings import Cluster
from slowfast_core.credentials import without_credentials
from slowfast_core.errors import InputError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubeflow/pipelines/token")  # mounted into pods that request it
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
TRIES = 3
PAGE = 100


class ServerError(Exception):
    """The server failed or cannot be reached; the request itself is valid."""


class RunOrSchedule(BaseModel):
    """A run or a schedule on the server, as `slowfast pipeline ... --json` prints it."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    state: str
    url: str
    error: str = ""
    cron: str = ""
    tasks: dict[str, str] = {}  # display name: state


class Server:
    """A client of one Kubeflow Pipelines API, authenticated by the cluster settings."""

    def __init__(self, cluster: Cluster) -> None:
        import kfp_server_api as api
        import urllib3

        self.cluster = cluster
        # POST starts a run, so it is retried only when no connection was made.
        retries = urllib3.Retry(
            TRIES, backoff_factor=0.5, status_forcelist=(502, 503, 504), allowed_methods=("GET",), raise_on_status=False
        )
        settings = api.Configuration(host=cluster.host.rstrip("/"))
        settings.retries = retries
        settings.ssl_ca_cert = cluster.ca_file and str(cluster.ca_file)
        if token := read_token(cluster):
            settings.api_key = {"authorization": token}
            settings.api_key_prefix = {"authorization": "Bearer"}
        client = api.ApiClient(settings)
        self._experiments, self._runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
        self._recurring, self._health = api.RecurringRunServiceApi(client), api.HealthzServiceApi(client)

    def submit(self, package: str, name: str, experiment: str, parameters: dict[str, Any]) -> RunOrSchedule:
        """Start a run of the compiled pipeline."""
        run = self._job(self._experiment(experiment), package, name, parameters)
        return self._as_run(self._ask(self._runs.run_service_create_run, run=run))

    def schedule(
        self, package: str, name: str, experiment: str, parameters: dict[str, Any], cron: str, replace: bool
    ) -> RunOrSchedule:
        """Run the pipeline on a schedule: one run at a time, and missed runs are not made up.

        `cron` has six fields, the first of them seconds. Raises InputError when a schedule with this name exists and
        `replace` is not set.
        """
        experiment_id = self._experiment(experiment)
        existing = self._schedules(experiment_id, name)
        if existing and not replace:
            raise InputError(f"{name!r} is already scheduled", existing[0].recurring_run_id, "pass --replace")
        recurring = self._job(experiment_id, package, name, parameters) | {
            "max_concurrency": "1",
            "no_catchup": True,
            "mode": "ENABLE",
            "trigger": {"cron_schedule": {"cron": cron}},
        }
        created = self._ask(self._recurring.recurring_run_service_create_recurring_run, recurring_run=recurring)
        for old in existing:  # after creating the new one: a failure leaves two schedules, not none
            self._ask(self._recurring.recurring_run_service_delete_recurring_run, recurring_run_id=old.recurring_run_id)
        url = f"{self._ui}/#/recurringrun/details/{created.recurring_run_id}"
        return RunOrSchedule(
            id=created.recurring_run_id, name=name, state=str(created.status or created.mode), url=url, cron=cron
        )

    def status(self, run_id: str) -> RunOrSchedule:
        """The state of a run and of its tasks."""
        return self._as_run(self._ask(self._runs.run_service_get_run, run_id=run_id))

    def cancel(self, run_id: str) -> RunOrSchedule:
        """Cancel a run; a run that has ended is left as it is."""
        run = self.status(run_id)
        if run.state in ENDED:
            return run
        self._ask(self._runs.run_service_terminate_run, run_id=run_id)
        return self.status(run_id)

    def _job(self, experiment_id: str, package: str, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The fields that a run and a schedule have in common."""
        documents = yaml.load_all(package, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return {
            "experiment_id": experiment_id,
            "display_name": name,
            "pipeline_spec": dict(zip(("pipeline_spec", "platform_spec"), documents, strict=False)),
            "runtime_config": {"parameters": parameters},
            "service_account": self.cluster.service_account,
        }

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which is created if it does not exist."""
        has_name = {"operation": "EQUALS", "key": "display_name", "string_value": name}
        multi_user = self._ask(self._health.healthz_service_get_healthz).multi_user
        where = {"namespace": self.cluster.namespace} if multi_user else {}  # a single-user server rejects it
        list_experiments = self._experiments.experiment_service_list_experiments
        found = self._ask(list_experiments, filter=json.dumps({"predicates": [has_name]}), **where)
        if found.experiments:
            return str(found.experiments[0].experiment_id)
        new = {"display_name": name, **where}
        created = self._ask(self._experiments.experiment_service_create_experiment, experiment=new)
        return str(created.experiment_id)

    def _schedules(self, experiment: str, name: str) -> list[Any]:
        found = []
        page = ""
        while True:
            response = self._ask(
                self._recurring.recurring_run_service_list_recurring_runs,
                experiment_id=experiment,
                page_size=PAGE,
                page_token=page,
            )
            found += [schedule for schedule in response.recurring_runs or [] if schedule.display_name == name]
            page = response.next_page_token or ""
            if not page:
                return found

    def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """Call the API. Raises InputError for an invalid request or token, ServerError for a failure of the server."""
        import kfp_server_api as api
        import urllib3

        host = self.cluster.host
        seconds = self.cluster.timeout_seconds
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return call(**arguments, _request_timeout=(min(10, seconds), seconds))
        except api.ApiException as error:
            raise _error_of(error, host) from None
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            refused = isinstance(reason, urllib3.exceptions.NewConnectionError)  # urllib3 counts it as a timeout
            if isinstance(reason, urllib3.exceptions.TimeoutError) and not refused:
                raise ServerError(
                    f"{host} did not answer within {seconds} s; check with `slowfast pipeline status`"
                ) from None
            detail = str(reason).rpartition(": ")[2]
            raise ServerError(f"{host} cannot be reached: {detail}; check `host` in the cluster settings") from None

    def _as_run(self, run: Any) -> RunOrSchedule:
        tasks = (run.run_details.task_details if run.run_details else None) or []
        return RunOrSchedule(
            id=run.run_id,
            name=run.display_name or "",
            state=str(run.state or "PENDING"),
            url=f"{self._ui}/#/runs/details/{run.run_id}",
            error=(run.error.message or "") if run.error else "",
            tasks={task.display_name: str(task.state) for task in tasks if task.display_name and task.state},
        )

    @property
    def _ui(self) -> str:
        return without_credentials(self.cluster.ui or self.cluster.host).rstrip("/")


def read_token(cluster: Cluster) -> str:
    """The token from the environment, from token_file or from the pod's service account; "" without one."""
    if token := os.environ.get(cluster.token_env, "").strip():
        return token
    path = cluster.token_file or (SERVICE_ACCOUNT if SERVICE_ACCOUNT.exists() else None)
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"no token: {error.strerror}", path, "correct token_file in the cluster settings") from None


def _error_of(error: Any, host: str) -> Exception:
    message = _message(error)
    match error.status:
        case 401:
            return InputError("the server rejects the token", host, "put a new one into the token variable")
        case 403:
            return InputError(f"the server denies access: {message}", host, "request access to this namespace")
        case 404:
            return InputError(f"not found: {message}", host, "check the id, and `host` in the cluster settings")
        case 409:
            return InputError(f"it already exists: {message}", host, "choose another name, or use the existing one")
        case status if status and 400 <= status < 500:
            return InputError(f"the server rejects the request ({status}): {message}", host, "correct it")
        case status:
            return ServerError(f"{host} answers {status or 'nothing'}: {message}; try again later")


def _message(error: Any) -> str:
    """The message in the JSON body of the error, in one line."""
    try:
        body = json.loads(error.body or "")
        text = body.get("message") or body.get("error") or error.reason
    except (ValueError, AttributeError):
        text = error.reason
    return " ".join(str(text).split())[:300]
