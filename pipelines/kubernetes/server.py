"""The Kubeflow Pipelines API: what `slowfast pipeline` asks of it, within limits of time and tries, errors in a line.

Its generated client is used as it is: kfp.Client reads and writes contexts in the home directory and has no time limit.
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

SERVICE_ACCOUNT = Path("/var/run/secrets/kubeflow/pipelines/token")  # projected into pods that ask for it
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
TRIES = 3
PAGE = 100


class ServerError(Exception):
    """The server, or the way to it, is broken: nothing is wrong with the request."""


class Sent(BaseModel):
    """What a command of `slowfast pipeline` did, as `--json` prints it."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    state: str
    url: str
    error: str = ""
    cron: str = ""
    tasks: dict[str, str] = {}  # display name: state


class Server:
    """One Kubeflow Pipelines API, and who asks."""

    def __init__(self, cluster: Cluster) -> None:
        import kfp_server_api as api
        import urllib3

        self.cluster = cluster
        # A run is begun by POST: sent again only where the first one never arrived.
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

    def submit(self, package: str, name: str, experiment: str, parameters: dict[str, Any]) -> Sent:
        """Begin a run of the compiled pipeline."""
        import kfp_server_api as api

        run = api.V2beta1Run(
            experiment_id=self._experiment(experiment),
            display_name=name,
            pipeline_spec=_spec(package),
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            service_account=self.cluster.service_account,
        )
        return self._sent(self._ask(self._runs.run_service_create_run, run=run))

    def schedule(
        self, package: str, name: str, experiment: str, parameters: dict[str, Any], cron: str, replace: bool
    ) -> Sent:
        """Have it run by the clock: one at a time, and what was missed stays missed. Raises InputError when a schedule
        of this name is there and `replace` is not set. `cron` has seconds."""
        import kfp_server_api as api

        where = self._experiment(experiment)
        before = self._schedules(where, name)
        if before and not replace:
            raise InputError(f"{name!r} is scheduled already", before[0].recurring_run_id, "pass --replace")
        recurring = api.V2beta1RecurringRun(
            experiment_id=where,
            display_name=name,
            pipeline_spec=_spec(package),
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            service_account=self.cluster.service_account,
            max_concurrency="1",
            no_catchup=True,
            mode=api.RecurringRunMode.ENABLE,
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
        )
        made = self._ask(self._recurring.recurring_run_service_create_recurring_run, recurring_run=recurring)
        for old in before:  # after the new one is there: a failure leaves two, not none
            self._ask(self._recurring.recurring_run_service_delete_recurring_run, recurring_run_id=old.recurring_run_id)
        url = f"{self._ui}/#/recurringrun/details/{made.recurring_run_id}"
        return Sent(id=made.recurring_run_id, name=name, state=str(made.status or made.mode), url=url, cron=cron)

    def status(self, run_id: str) -> Sent:
        return self._sent(self._ask(self._runs.run_service_get_run, run_id=run_id))

    def cancel(self, run_id: str) -> Sent:
        """Stop a run; one that has ended stays as it is."""
        run = self.status(run_id)
        if run.state in ENDED:
            return run
        self._ask(self._runs.run_service_terminate_run, run_id=run_id)
        return self.status(run_id)

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which is made when there is none."""
        import kfp_server_api as api

        same = {"operation": "EQUALS", "key": "display_name", "string_value": name}
        of_many = self._ask(self._health.healthz_service_get_healthz).multi_user
        where = {"namespace": self.cluster.namespace} if of_many else {}  # a server of one user refuses it
        look = self._experiments.experiment_service_list_experiments
        found = self._ask(look, filter=json.dumps({"predicates": [same]}), **where)
        if found.experiments:
            return str(found.experiments[0].experiment_id)
        new = api.V2beta1Experiment(display_name=name, **where)
        made = self._ask(self._experiments.experiment_service_create_experiment, experiment=new)
        return str(made.experiment_id)

    def _schedules(self, experiment: str, name: str) -> list[Any]:
        found, page = [], ""
        while True:
            answer = self._ask(
                self._recurring.recurring_run_service_list_recurring_runs,
                experiment_id=experiment,
                page_size=PAGE,
                page_token=page,
            )
            found += [one for one in answer.recurring_runs or [] if one.display_name == name]
            page = answer.next_page_token or ""
            if not page:
                return found

    def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """Raises InputError where the request or who asks is wrong, ServerError where the server is."""
        import kfp_server_api as api
        import urllib3

        host, seconds = self.cluster.host, self.cluster.timeout_seconds
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return call(**arguments, _request_timeout=(min(10, seconds), seconds))
        except api.ApiException as error:
            raise _explained(error, host) from None
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            refused = isinstance(reason, urllib3.exceptions.NewConnectionError)  # a time-out of connecting, to urllib3
            if isinstance(reason, urllib3.exceptions.TimeoutError) and not refused:
                raise ServerError(
                    f"{host} did not answer in {seconds} s; see with `slowfast pipeline status`"
                ) from None
            said = str(reason).rpartition(": ")[2]
            raise ServerError(f"{host} cannot be reached: {said}; is `host` of the settings right?") from None

    def _sent(self, run: Any) -> Sent:
        tasks = (run.run_details.task_details if run.run_details else None) or []
        return Sent(
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
    """From the environment, the settings' file, or the pod's service account; "" where the server asks for none."""
    if token := os.environ.get(cluster.token_env, "").strip():
        return token
    path = cluster.token_file or (SERVICE_ACCOUNT if SERVICE_ACCOUNT.exists() else None)
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"no token: {error.strerror}", path, "correct token_file of the settings") from None


def _spec(package: str) -> dict[str, Any]:
    """Both documents of a compiled pipeline, as the API takes them."""
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    spec, *platforms = yaml.load_all(package, Loader=fast)  # the loader is a safe one
    return {"pipeline_spec": spec, "platform_spec": platforms[0]} if platforms else {"pipeline_spec": spec}


def _explained(error: Any, host: str) -> Exception:
    said = _message(error)
    match error.status:
        case 401:
            return InputError("the server does not know this token", host, "get a new one into the token variable")
        case 403:
            return InputError(f"the server forbids it: {said}", host, "ask for the rights in this namespace")
        case 404:
            return InputError(f"not found: {said}", host, "check the id, and the host of the settings")
        case 409:
            return InputError(f"it is there already: {said}", host, "give it another name, or look at the one there")
        case status if status and 400 <= status < 500:
            return InputError(f"the server refuses the request ({status}): {said}", host, "correct it")
        case status:
            return ServerError(f"{host} answers {status or 'nothing'}: {said}; try again later")


def _message(error: Any) -> str:
    """The server's own words, of its JSON, in one line."""
    try:
        body = json.loads(error.body or "")
        text = body.get("message") or body.get("error") or error.reason
    except (ValueError, AttributeError):
        text = error.reason
    words = " ".join(str(text).split())
    return words if len(words) <= 300 else words[:300] + "..."
