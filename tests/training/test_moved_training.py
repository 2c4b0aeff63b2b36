"""A killed training resumes after its workspace was moved, or copied while it tracks to a server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_server import Server
from trainings import Training, lines_of

from slowfast_core.tracking.runs import connect
from slowfast_core.workspace import Workspace


def runs_of(uri: str) -> list[tuple[str, set[int]]]:
    """Status and steps of each training run."""
    client = connect(uri)
    found = client.search_runs([e.experiment_id for e in client.search_experiments() if e.name == "slowfast"])
    return [(run.info.status, {p.step for p in client.get_metric_history(run.info.run_id, "loss")}) for run in found]


def steps_in(training: Training) -> set[int]:
    return {int(line["step"]) for line in lines_of(training.folder / "log.jsonl") if "step" in line}


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_a_moved_training_resumes_in_the_same_run(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    training = Training(tiny_recipe, tiny_workspace(tmp_path / "workspace"))
    try:
        training.start()
        training.wait_for_checkpoints(2)
        training.kill()
        training.at.root.rename(tmp_path / "moved")
        training.at = Workspace(tmp_path / "moved")
        training.start()
        assert "resumed from checkpoint" in training.finish()["summary"]
    finally:
        training.kill()
    assert not (tmp_path / "workspace").exists()
    assert runs_of(training.at.tracking_uri) == [("FINISHED", steps_in(training))]


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_copied_training_has_its_own_run_on_a_server(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    first = Training(tiny_recipe, tiny_workspace(tmp_path / "workspace"), (f"tracking.uri={server.uri}",))
    try:
        first.start()
        first.wait_for_checkpoints(2)
        first.kill()
        shutil.copytree(first.at.root, tmp_path / "copy")
        second = Training(tiny_recipe, Workspace(tmp_path / "copy"), first.overrides)
        results = []
        for training in (second, first):
            training.start()
            results.append(training.finish()["weights_digest"])
        assert results[0] == results[1]
        assert sorted(runs_of(server.uri), key=str) == sorted(
            [("FINISHED", steps_in(first)), ("FINISHED", steps_in(second))], key=str
        )
        records = [json.loads((one.folder / "checkpoint.json").read_text())["run_id"] for one in (first, second)]
        assert records[0] != records[1]
    finally:
        first.kill()
        server.kill()
