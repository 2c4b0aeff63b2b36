"""Fixtures: an MLflow database, workspaces with a copy of it, and flows that register in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flows import Flow

from slowfast_core.once import StageResult
from slowfast_core.tracking.runs import connect
from slowfast_core.workspace import Workspace


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, created once, because this takes seconds."""
    at = Workspace(tmp_path_factory.mktemp("database"))
    connect(at.tracking_uri).search_experiments()
    return at.root / "mlflow.db"


@pytest.fixture(scope="session")
def workspace(database: Path) -> Callable[[Path], Workspace]:
    """Create a workspace with an MLflow database in a folder."""

    def make(root: Path) -> Workspace:
        root.mkdir(exist_ok=True)
        shutil.copy(database, root)
        return Workspace(root)

    return make


@pytest.fixture(scope="session")
def make_flow() -> type[Flow]:
    return Flow


@pytest.fixture
def flow(tmp_path: Path, workspace: Callable[[Path], Workspace]) -> Flow:
    return Flow(tmp_path, workspace(tmp_path / "workspace"))


@pytest.fixture
def registered(flow: Flow) -> Callable[[str, float], StageResult]:
    """Train, evaluate and register weights with this name and top-1 accuracy."""
    return lambda weights, top1: flow.register(flow.train(weights), flow.evaluate(weights, top1))
