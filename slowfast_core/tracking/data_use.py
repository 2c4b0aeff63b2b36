"""Finds the runs and models that used a data version, and the data version of a run or model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.errors import InputError
from slowfast_core.tracking.failures import SQLITE, mlflow_in_one_line
from slowfast_core.tracking.registry import EVALUATED_ON, find_version
from slowfast_core.tracking.runs import MAX_DIGEST, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass
class Use:
    runs: list[dict[str, str]] = field(default_factory=list)  # id, name, context
    models: list[str] = field(default_factory=list)  # NAME/VERSION


def uses(versions: Iterable[str], uri: str) -> dict[str, Use]:
    """Return the uses of each data version in the tracking store at `uri`; none if the store does not exist."""
    found = {version: Use() for version in versions}
    if not found or not _is_there(uri):
        return found
    client = connect(uri)
    with mlflow_in_one_line(uri):
        _fill(found, client)
    return found


def _fill(found: dict[str, Use], client: MlflowClient) -> None:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for version, use in found.items():
        for run in _pages(client.search_runs, experiments, f"dataset.digest = '{version[:MAX_DIGEST]}'"):
            contexts = sorted(
                {tags["mlflow.data.context"] for tags in _inputs(run) if tags.get("data_version") == version}
            )
            use.runs.append({"id": run.info.run_id, "name": run.info.run_name or "", "context": ", ".join(contexts)})
        for tag in ("data_version", EVALUATED_ON):
            use.models += [_name(model) for model in _pages(client.search_model_versions, f"tags.{tag} = '{version}'")]
        use.models = sorted(set(use.models))


def used_by(which: str, uri: str) -> str | None:
    """Return the data version on which a run (its id) or a model (models:/NAME@ALIAS, models:/NAME/3) was trained.

    None if `which` is neither. Raises InputError if the model does not exist or does not record the version.
    """
    is_model = which.startswith("models:/")
    if not is_model and not (RUN_ID.fullmatch(which) and _is_there(uri)):
        return None
    version = find_version(which, uri).tags.get("data_version", "") if is_model else _of_run(which, connect(uri))
    if version == "":
        raise InputError("it does not record its data version", which, "name the data version itself")
    return version


def _of_run(run_id: str, client: MlflowClient) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    named = {tags["mlflow.data.context"]: tags["data_version"] for tags in _inputs(run) if "data_version" in tags}
    return named.get("training") or named.get("evaluation") or ""


def _inputs(run: Any) -> list[dict[str, str]]:
    return [{tag.key: tag.value for tag in entry.tags} for entry in run.inputs.dataset_inputs]


def _name(model: Any) -> str:
    return f"{model.name}/{model.version}"


def _pages(search: Any, *query: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(*query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_there(uri: str) -> bool:
    """Whether the store exists: a query must not create a SQLite file."""
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()
