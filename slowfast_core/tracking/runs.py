"""MLflow runs: opened or continued, and what is logged to them. `MlflowClient` only: no active run, no global URI."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel

from slowfast_core.recipe import Tracking
from slowfast_core.tracking.lineage import Environment, environment
from slowfast_core.tracking.locked import when_unlocked
from slowfast_core.tracking.store_failures import store_failures_in_one_line
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "slowfast.key"
PIPELINE_RUN, PIPELINE_VARIABLE = "slowfast.pipeline_run", "SLOWFAST_PIPELINE_RUN"  # tag; where the id comes from
ENVIRONMENT = "environment.json"
MAX_PARAMS, MAX_METRICS = 100, 1000  # that MLflow takes in one batch
MAX_DIGEST = 36  # a DVC hash with its ".dir" is exactly as long


@dataclass(frozen=True)
class Run:
    """A run in the store at `uri`; may be sent to other processes. As a context it ends FINISHED, FAILED or KILLED."""

    uri: str
    id: str

    def log_params(self, **sections: BaseModel) -> None:
        """Recipe sections as `section.key`. A continued run keeps the values it began with: MLflow's are immutable."""
        known = self._client.get_run(self.id).data.params
        values = {key: value for key, value in _flat(sections) if key not in known}
        self._log_batches("params", _entities("Param", values.items()), MAX_PARAMS)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One point a metric. Training that goes on from a checkpoint logs the steps after it once more: MLflow keeps
        both points, the later timestamp counts, and as resumed training repeats the same numbers the curve is the same.
        """
        now = int(time.time() * 1000)
        points = [(name, float(value), now, step) for name, value in metrics.items()]
        self._log_batches("metrics", _entities("Metric", points), MAX_METRICS)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self._client.log_artifact(self.id, str(path), folder)

    def log_data_report(self, validated: Path) -> None:
        """What the quality gate said of the data; a clip store may also come without its validation."""
        for name in ("report.html", "report.json", "coverage.json"):
            if (validated / name).is_file():
                self.log_artifact(validated / name, "data")

    def log_dataset(self, name: str, data_version: str, source: str, context: str) -> None:
        """The data version as an input of the run; `context` is "training" or "evaluation"."""
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import Dataset, DatasetInput, InputTag

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a local path is of two kinds, both the same
            where = resolve_dataset_source(source)
        described = MetaDataset(where, name=name, digest=data_version[:MAX_DIGEST]).to_dict()
        tags = [InputTag("mlflow.data.context", context), InputTag("data_version", data_version)]
        self._client.log_inputs(self.id, [DatasetInput(Dataset.from_dictionary(described), tags)])

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        self._client.set_terminated(self.id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")

    @property
    def _client(self) -> MlflowClient:
        return connect(self.uri)

    def _log_batches(self, kind: Literal["params", "metrics"], entities: list[Any], size: int) -> None:
        for start in range(0, len(entities), size):
            self._client.log_batch(self.id, **{kind: entities[start : start + size]})


def open_run(tracking: Tracking, at: Workspace, name: str, key: str, tags: Mapping[str, str] | None = None) -> Run:
    """Continue the run that has this key (that of a killed stage, for one), or begin it.

    The environment of the process is recorded with it, which registration reads as lineage.
    """
    quiet_mlflow()
    uri = store_uri(tracking, at)
    with store_failures_in_one_line(uri):
        client = connect(uri)
        experiment = _experiment(client, tracking.experiment, None if uri.startswith("http") else at.artifacts.as_uri())
        begun = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
    if begun:
        run = Run(uri, begun[0].info.run_id)
        client.update_run(run.id, status="RUNNING")
    else:
        run = Run(uri, client.create_run(experiment, tags={KEY: key, **(tags or {})}, run_name=name).info.run_id)
    if pipeline := os.environ.get(PIPELINE_VARIABLE):
        client.set_tag(run.id, PIPELINE_RUN, pipeline)
    _record_environment(client, run.id, begun[0].data.tags if begun else {})
    return run


def read_environment(uri: str, run_id: str) -> Environment | None:
    """The environment recorded with a run, or None when the store has no such run or record."""
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run_id, ENVIRONMENT, folder)
        except (MlflowException, OSError):
            return None
        return Environment.model_validate_json(Path(path).read_text(encoding="utf-8"))


def run_exists(uri: str, run_id: str) -> bool:
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException:
        return False
    return True


def store_uri(tracking: Tracking, at: Workspace) -> str:
    return tracking.uri or at.tracking_uri


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`, which is made when it is a SQLite file that is not there."""
    quiet_mlflow()
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with store_failures_in_one_line(uri):
        return when_unlocked(lambda: MlflowClient(uri, registry_uri=uri))


def quiet_mlflow() -> None:
    """No telemetry, progress bars or migration logs. MLflow reads the environment when it is first imported."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
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
    """The last process counts; where an earlier one ran other code, a tag says so."""
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
