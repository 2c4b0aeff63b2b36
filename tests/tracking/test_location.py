"""A copied or moved workspace works in its new place, and nothing outside it is changed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slowfast_core.tracking.location import ARTIFACTS, settle
from slowfast_core.tracking.registry import download_version
from slowfast_core.tracking.runs import connect, open_run, read_environment
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from tests.tracking.conftest import Flow

NAME = "slowfast-tiny"


def tree(folder: Path) -> dict[str, str]:
    """The digest of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def values_with(text: str, database: Path) -> list[tuple[str, str]]:
    """Every table and column of the database that contains `text`."""
    found = []
    with closing(sqlite3.connect(database)) as store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in store.execute(f"PRAGMA table_info({table})").fetchall():
                query = f"SELECT count(*) FROM {table} WHERE instr(CAST({column} AS TEXT), ?)"
                if store.execute(query, (text,)).fetchone()[0]:
                    found.append((table, column))
    return found


def locations(database: Path) -> list[str]:
    """Every value in the database that contains the path of the artifacts."""
    found: list[str] = []
    with closing(sqlite3.connect(database)) as store:
        for table, column in values_with(f"/{ARTIFACTS}", database):
            query = f"SELECT {column} FROM {table} WHERE instr(CAST({column} AS TEXT), ?)"
            found += [str(value) for (value,) in store.execute(query, (f"/{ARTIFACTS}",))]
    return found


@pytest.fixture(scope="module")
def registered_flow(
    tmp_path_factory: pytest.TempPathFactory, workspace: Callable[[Path], Workspace], make_flow: type[Flow]
) -> Flow:
    root = tmp_path_factory.mktemp("registered_flow")
    flow = make_flow(root, workspace(root / "workspace"))
    flow.register(flow.train("w1"), flow.evaluate("w1", 0.5))
    return flow


@pytest.fixture
def original(registered_flow: Flow, tmp_path: Path) -> Flow:
    """A workspace with a registered model, in a folder whose name needs quoting in a URI."""
    root = tmp_path / "a b é"
    shutil.copytree(registered_flow.root, root)
    flow = type(registered_flow)(root, Workspace(root / "workspace"))
    connect(flow.at.tracking_uri)
    return flow


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_copied_or_moved_workspace_uses_only_its_own_runs_and_models(
    original: Flow, tmp_path: Path, how: str
) -> None:
    was, now = original.at.root, Workspace(tmp_path / "elsewhere")
    if how == "copied":
        shutil.copytree(was, now.root)
    else:
        was.rename(now.root)
    before = tree(tmp_path / "a b é")
    files = download_version(f"models:/{NAME}@champion", now.tracking_uri, tmp_path / "got").folder / "artifacts"
    assert (files / "model.safetensors").is_file()
    lineage = json.loads((files / "lineage.json").read_text())
    assert read_environment(now.tracking_uri, lineage["training_run"]) is not None
    with open_run(original.recipe.tracking, now, "more", "more") as run:
        (tmp_path / "report.html").write_text("<p>")
        run.log_artifact(tmp_path / "report.html")
    assert (now.root / ARTIFACTS / run.id / "artifacts" / "report.html").is_file()
    assert tree(tmp_path / "a b é") == before
    assert values_with(was.as_uri(), now.root / "mlflow.db") == []
    assert values_with(f"{was}/", now.root / "mlflow.db") == []


def test_a_workspace_can_be_moved_repeatedly_and_back(original: Flow, tmp_path: Path) -> None:
    was = at = original.at.root
    for number, target in enumerate((tmp_path / "first", tmp_path / "first2", tmp_path / "first" / "deeper", was)):
        target.parent.mkdir(exist_ok=True)
        at = at.rename(target)
        assert download_version(f"models:/{NAME}/1", Workspace(at).tracking_uri, tmp_path / f"got{number}")
        assert len(locations(at / "mlflow.db")) > 6
        assert {location.startswith(f"{at.as_uri()}/{ARTIFACTS}") for location in locations(at / "mlflow.db")} == {True}


def test_a_database_without_a_recorded_location_can_be_moved(original: Flow, tmp_path: Path) -> None:
    with closing(sqlite3.connect(original.at.root / "mlflow.db")) as store:
        store.execute("UPDATE experiments SET artifact_location = '/somewhere/mlruns/0' WHERE experiment_id = 0")
        store.commit()
    at = Workspace(tmp_path / "elsewhere")
    shutil.copytree(original.at.root, at.root)
    assert download_version(f"models:/{NAME}@champion", at.tracking_uri, tmp_path / "got")
    assert values_with(original.at.root.as_uri(), at.root / "mlflow.db") == []


def test_artifacts_of_a_database_outside_a_workspace_are_next_to_it(
    tmp_path: Path, workspace: Callable[[Path], Workspace], make_flow: type[Flow]
) -> None:
    at, shared = workspace(tmp_path / "workspace"), workspace(tmp_path / "shared").root
    flow = make_flow(tmp_path, at, f"sqlite:///{shared / 'mlflow.db'}")
    flow.register(flow.train("w1"), flow.evaluate("w1", 0.5))
    assert not at.artifacts.exists()
    at.root.rename(tmp_path / "moved")
    assert download_version(f"models:/{NAME}/1", f"sqlite:///{shared / 'mlflow.db'}", tmp_path / "got")


def test_a_registration_in_a_moved_workspace_is_up_to_date(original: Flow, tmp_path: Path) -> None:
    """The address of the workspace's own database is not an input of the stage."""
    at = Workspace(tmp_path / "elsewhere")
    original.at.root.rename(at.root)
    moved = type(original)(original.root, at)
    result = moved.register(original.root / "train-w1", original.root / "evaluate-w1")
    assert result.status == "unchanged"
    assert len(connect(at.tracking_uri).search_model_versions(f"name = '{NAME}'")) == 1


def settle_when(barrier: object, database: Path) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    settle(database)


def test_several_processes_can_open_a_moved_workspace_simultaneously(original: Flow, tmp_path: Path) -> None:
    at = Workspace(tmp_path / "elsewhere")
    original.at.root.rename(at.root)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=settle_when, args=(barrier, at.root / "mlflow.db")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert {location.startswith(at.artifacts.as_uri()) for location in locations(at.root / "mlflow.db")} == {True}
    assert download_version(f"models:/{NAME}/1", at.tracking_uri, tmp_path / "got")


def test_a_read_only_workspace_that_was_not_moved_can_be_read(original: Flow, tmp_path: Path) -> None:
    connect(original.at.tracking_uri)
    database = original.at.root / "mlflow.db"
    os.chmod(database, 0o444)
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    settle(database)
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
