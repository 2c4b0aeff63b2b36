"""Opens, continues and logs to MLflow runs. Uses only `MlflowClient`: no active run and no global URI."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import BaseModel

from slowfast_core.background import within
from slowfast_core.credentials import without_credentials
from slowfast_core.files import locked
from slowfast_core.recipe.load import Tracking
from slowfast_core.tracking.failures import (
    SQLITE,
    is_unanswered,
    mlflow_in_one_line,
    reason_of,
    when_unlocked,
)
from slowfast_core.tracking.lineage import Environment, environment
from slowfast_core.tracking.location import artifacts_of, settle
from slowfast_core.tracking.unsent import Point, Unsent, all_of, files_of, remove
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "slowfast.key"
PIPELINE_RUN, PIPELINE_VARIABLE = (
    "slowfast.pipeline_run",
    "SLOWFAST_PIPELINE_RUN",
)  # tag; environment variable with the id
ENVIRONMENT = "environment.json"
MAX_PARAMS, MAX_METRICS = 100, 1000  # MLflow's limits of a batch
MAX_DIGEST = 36  # a DVC hash with its ".dir" is exactly as long
BEGIN_SECONDS, END_SECONDS, STOP_SECONDS = (
    60,
    20,
    5,
)  # limits to open a run, to end it, and to end it when the stage is stopped
# MLflow by default waits for minutes. With these values it gives up after about 15 s; unsent records are kept.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}

Status = Literal["FINISHED", "FAILED", "KILLED"]
T = TypeVar("T")


@dataclass
class Rest:
    """Points and files to be sent when a run ends."""

    points: list[Point] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        self.points += points_of(metrics, step)


@dataclass(frozen=True)
class Run:
    """A run in the store at `uri`, which can be pickled.

    As a context manager, it sends its `rest` and ends the run as FINISHED, FAILED or KILLED. If MLflow does not accept
    this within END_SECONDS, it is kept in the workspace, and `send_unsent` sends it later.
    """

    uri: str = field(repr=False)
    id: str
    at: Workspace
    name: str = field(default="", compare=False)
    rest: Rest = field(default_factory=Rest, compare=False, repr=False)

    def log_params(self, **sections: BaseModel) -> None:
        """Log sections as `section.key`. A continued run keeps its first values, which MLflow cannot change."""
        known = self._client.get_run(self.id).data.params
        values = {key: value for key, value in _flat(sections) if key not in known}
        self._log_batches("params", _entities("Param", values.items()), MAX_PARAMS)

    def log_points(self, points: Sequence[Point]) -> None:
        """Log points. Sending a point again is safe, because MLflow stores the same point once.

        Training that resumes from a checkpoint measures the steps after it again. MLflow keeps both points and uses the
        later one; since resumed training repeats the same numbers, the curve is the same.
        """
        self._log_batches("metrics", _entities("Metric", points), MAX_METRICS)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self._client.log_artifact(self.id, str(path), folder)

    def log_data_report(self, validated: Path) -> None:
        """Log the validation reports of the data, if they exist: a clip store may come without them."""
        for name in ("report.html", "report.json", "coverage.json"):
            if (validated / name).is_file():
                self.log_artifact(validated / name, "data")

    def log_dataset(self, name: str, data_version: str, source: str, context: str) -> None:
        """Log the data version as an input of the run; `context` is "training" or "evaluation"."""
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import Dataset, DatasetInput, InputTag

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a local path that matches two equivalent source types
            where = resolve_dataset_source(without_credentials(source))
        described = MetaDataset(where, name=name, digest=data_version[:MAX_DIGEST]).to_dict()
        tags = [InputTag("mlflow.data.context", context), InputTag("data_version", data_version)]
        self._client.log_inputs(self.id, [DatasetInput(Dataset.from_dictionary(described), tags)])

    def finish(self, status: Status = "FINISHED") -> None:
        self._client.set_terminated(self.id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self._end("FINISHED", END_SECONDS)
        else:
            self._end("FAILED" if issubclass(kind, Exception) else "KILLED", STOP_SECONDS)

    def _end(self, status: Status, seconds: float) -> None:
        """End the run in bounded time; records that MLflow does not accept are kept."""
        ended, points, files = _now(), list(self.rest.points), list(self.rest.files)
        try:
            within(seconds, lambda: self.send(points, files, status, ended))
        except Exception as error:  # noqa: BLE001  from MLflow, the network or the artifact store
            store, reason = store_name(self.uri, self.at), reason_of(error)
            unsent = Unsent(self.id, self.name, store, status, ended, tuple(points), reason)
            unsent.keep(self.at.unsent / self.id, files)

    def send(self, points: Sequence[Point], files: Sequence[Path], status: str, ended: int) -> None:
        """Send the rest of the run and end it. Repeating this changes nothing."""
        self.log_points(points)
        for file in files:
            self.log_artifact(file)
        self._client.set_terminated(self.id, status, ended)

    def check(self) -> None:
        """Raise MlflowException if the store does not answer or does not have the run."""
        self._client.get_run(self.id)

    @property
    def _client(self) -> MlflowClient:
        return connect(self.uri)

    def _log_batches(self, kind: Literal["params", "metrics"], entities: list[Any], size: int) -> None:
        for start in range(0, len(entities), size):
            self._client.log_batch(self.id, **{kind: entities[start : start + size]})


def open_run(tracking: Tracking, at: Workspace, name: str, key: str, tags: Mapping[str, str] | None = None) -> Run:
    """Continue the run with this key, such as the run of a killed stage, or start one.

    Records the environment of the process, which registration reads as lineage, and sends the unsent records of earlier
    runs. Raises InputError if MLflow cannot be used or does not answer within BEGIN_SECONDS.
    """
    quiet_mlflow()
    uri = store_uri(tracking, at)
    with mlflow_in_one_line(uri):
        run = _bounded(uri, BEGIN_SECONDS, lambda: _open(uri, tracking.experiment, at, name, key, tags or {}))
        if run.id in [unsent.run for unsent in send_unsent(tracking, at)]:
            connect(uri).update_run(run.id, status="RUNNING")  # the end just sent belongs to an earlier process
    return run


def _open(uri: str, experiment: str, at: Workspace, name: str, key: str, tags: Mapping[str, str]) -> Run:
    client = connect(uri)
    number = _experiment(client, experiment, _artifacts(uri, at))
    begun = client.search_runs([number], f"tags.`{KEY}` = '{key}'", max_results=1)
    if begun:
        run = Run(uri, begun[0].info.run_id, at, name)
        client.update_run(run.id, status="RUNNING")
    else:
        run = Run(uri, client.create_run(number, tags={KEY: key, **tags}, run_name=name).info.run_id, at, name)
    if pipeline := os.environ.get(PIPELINE_VARIABLE):
        client.set_tag(run.id, PIPELINE_RUN, pipeline)
    _record_environment(client, run.id, begun[0].data.tags if begun else {})
    return run


def send_unsent(tracking: Tracking, at: Workspace) -> list[Unsent]:
    """Send the records kept in the workspace for the store of `tracking`; returns those that MLflow accepted.

    Records it does not accept stay, with the reason.
    """
    uri, sent = store_uri(tracking, at), list[Unsent]()
    waiting = [(folder, unsent) for folder, unsent in all_of(at) if unsent.store == store_name(uri, at)]
    if not waiting:
        return []
    with suppress(BlockingIOError), locked(at.unsent / ".lock", wait=False):  # another process may be sending
        for folder, unsent in waiting:
            run = Run(uri, unsent.run, at, unsent.name)
            try:
                _bounded(uri, END_SECONDS, run.check)
                run.send(unsent.points, files_of(folder), unsent.status, unsent.ended)
            except Exception as error:  # noqa: BLE001  from MLflow, the network or the artifact store
                replace(unsent, reason=reason_of(error)).write(folder)
                if is_unanswered(error):
                    break
            else:
                remove(folder)
                sent.append(unsent)
    return sent


def read_environment(uri: str, run_id: str) -> Environment | None:
    """Return the environment recorded with a run; None if the store has no such run or record.

    Raises MlflowException if the store does not answer.
    """
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run_id, ENVIRONMENT, folder)
        except (MlflowException, OSError) as error:
            if is_unanswered(error):
                raise
            return None
        return Environment.model_validate_json(Path(path).read_text(encoding="utf-8"))


def run_exists(uri: str, run_id: str) -> bool:
    """Return whether the store has the run. Raises MlflowException if the store does not answer."""
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if is_unanswered(error):
            raise
        return False
    return True


def store_uri(tracking: Tracking, at: Workspace) -> str:
    return tracking.uri or at.tracking_uri


def store_name(uri: str, at: Workspace) -> str:
    """Return the name under which a store is recorded: without credentials, and "" for the workspace's own store."""
    return "" if uri == at.tracking_uri else without_credentials(uri)


def connect(uri: str) -> MlflowClient:
    """Return a client of the store at `uri`; a missing SQLite file is created."""
    quiet_mlflow()
    from mlflow import MlflowClient

    with mlflow_in_one_line(uri):
        if uri.startswith(SQLITE):
            database = Path(uri.removeprefix(SQLITE))
            database.parent.mkdir(parents=True, exist_ok=True)
            settle(database)
        return when_unlocked(lambda: MlflowClient(uri, registry_uri=uri))


def points_of(metrics: Mapping[str, float], step: int, milliseconds: int | None = None) -> list[Point]:
    """Return the metrics of a step as points; without a time, with the current time."""
    time_of_all = _now() if milliseconds is None else milliseconds
    return [Point(name, float(value), time_of_all, step) for name, value in metrics.items()]


def _now() -> int:
    return int(time.time() * 1000)


def _bounded(uri: str, seconds: float, work: Callable[[], T]) -> T:
    """Return `work()`, limited to `seconds` for a server; a SQLite store needs no limit."""
    return within(seconds, work) if uri.startswith("http") else work()


def _artifacts(uri: str, at: Workspace) -> str | None:
    """Return the artifact location of a new experiment; None: the server decides."""
    if uri.startswith("http"):
        return None
    return artifacts_of(Path(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else at.artifacts.as_uri()


def quiet_mlflow() -> None:
    """Disable MLflow's telemetry, progress bars, migration logs and printed addresses, and shorten its timeouts.

    MLflow reads environment variables, some of them at its first import. Values set by the user are kept.
    """
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        os.environ.setdefault(name, "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException:  # another process made it meanwhile
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _record_environment(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Record the environment of the newest process; a tag records the code of an earlier one if it differs."""
    now = environment()
    code = f"{now.code_revision}+{now.code_diff_sha256}" if now.code_diff else now.code_revision
    before = tags.get("slowfast.code")
    if before not in (None, code):
        client.set_tag(run_id, "slowfast.began_with_code", tags.get("slowfast.began_with_code", before))
    client.set_tag(run_id, "slowfast.code", code)
    client.log_dict(run_id, now.model_dump(), ENVIRONMENT)


def _entities(kind: Literal["Param", "Metric"], rows: Any) -> list[Any]:
    import mlflow.entities

    return [getattr(mlflow.entities, kind)(*row) for row in rows]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json", by_alias=True)
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


MAX_TAG = 500


def close_runs(uri: str, experiment: str, pipeline_run: str, cause: str) -> list[str]:
    """End the RUNNING runs of a pipeline run as FAILED, with the cause as a tag; returns their names."""
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    open_ones = f"attributes.status = 'RUNNING' and tags.`{PIPELINE_RUN}` = '{pipeline_run}'"
    closed = []
    for run in client.search_runs([found.experiment_id], open_ones):
        if cause:
            client.set_tag(run.info.run_id, "slowfast.cause", cause[:MAX_TAG])
        client.set_terminated(run.info.run_id, "FAILED")
        closed.append(str(run.info.run_name))
    return closed
