"""The MLflow run of a stage that may be killed, and whose workspace may then be moved or copied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from slowfast_core.files import write_whole
from slowfast_core.once import key_of_partial
from slowfast_core.recipe.load import Tracking
from slowfast_core.tracking.runs import Run, open_run, store_name, store_uri
from slowfast_core.workspace import Workspace

RECORD = "tracking.json"  # in the folder of the stage


def open_run_of(folder: Path, tracking: Tracking, at: Workspace, name: str, tags: Mapping[str, str]) -> Run:
    """Open the run of the stage in `folder`: a new run, or the run of the killed process.

    Raises InputError if MLflow cannot be used or does not answer.
    """
    store, key = store_name(store_uri(tracking, at), at), _key(folder, tracking, at)
    run = open_run(tracking, at, name, key, tags)
    write_whole(folder / RECORD, json.dumps({"key": key, "folder": str(folder), "store": store, "run": run.id}))
    return run


def known_run(folder: Path, tracking: Tracking, at: Workspace, name: str) -> Run | None:
    """Return the run that an earlier process opened in the same store, without a request to MLflow."""
    uri, record = store_uri(tracking, at), _read(folder)
    same = record.get("store") == store_name(uri, at) and record.get("key") == _key(folder, tracking, at)
    return Run(uri, record["run"], at, name) if same else None


def _key(folder: Path, tracking: Tracking, at: Workspace) -> str:
    """Return the key of the run, which does not change if the folder is moved.

    A copy of an existing folder gets its own key if both track to the same store.
    """
    own, record = f"{key_of_partial(folder)} {folder}", _read(folder)
    if not record:
        return own
    elsewhere = Path(record["folder"])
    shared = store_name(store_uri(tracking, at), at) != ""
    is_copy = shared and elsewhere != folder and _read(elsewhere).get("key") == record["key"]
    return own if is_copy else record["key"]


def _read(folder: Path) -> dict[str, str]:
    path = folder / RECORD
    record: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record
