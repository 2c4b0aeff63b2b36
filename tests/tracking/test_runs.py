from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Tracking, Train
from slowfast_core.tracking.runs import connect, open_run, points_of, read_environment, run_exists
from slowfast_core.tracking.ui import serve_ui
from slowfast_core.workspace import Workspace


@pytest.fixture
def at(tmp_path: Path, workspace: Callable[[Path], Workspace]) -> Workspace:
    return workspace(tmp_path)


def test_run_with_the_same_key_is_continued(at: Workspace) -> None:
    first = open_run(Tracking(), at, "demo train", "key-1", {"stage": "train"})
    first.log_params(train=Train(epochs=3))
    first.log_points(points_of({"loss": 2.0}, 1))

    again = open_run(Tracking(), at, "demo train", "key-1", {"stage": "train"})
    again.log_params(train=Train(epochs=4))  # MLflow cannot change a parameter: the first value stays
    again.log_points(points_of({"loss": 2.0}, 1))
    again.log_points(points_of({"loss": 1.0}, 2))
    again.finish()

    other = open_run(Tracking(), at, "demo train", "key-2")
    assert again == first != other
    client = connect(first.uri)
    run = client.get_run(first.id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["stage"] == "train"
    assert run.data.params["train.epochs"] == "3"
    assert run.data.params["train.learning_rate"] == "0.1"
    assert run.data.metrics == {"loss": 1.0}
    assert {(p.step, p.value) for p in client.get_metric_history(first.id, "loss")} == {(1, 2.0), (2, 1.0)}


def test_finished_run_is_continued(at: Workspace) -> None:
    with open_run(Tracking(), at, "demo", "key") as first:
        pass
    again = open_run(Tracking(), at, "demo", "key")
    assert again.id == first.id
    assert connect(again.uri).get_run(again.id).info.status == "RUNNING"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_run_records_how_it_ended(at: Workspace, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), open_run(Tracking(), at, "demo", "key") as run:
        raise error
    assert connect(run.uri).get_run(run.id).info.status == status


def test_run_has_data_version_environment_and_files_in_the_workspace(at: Workspace) -> None:
    version = "0123456789abcdef0123456789abcdef.dir"
    report = at.root / "report.html"
    report.write_text("<p>")
    run = pickle.loads(pickle.dumps(open_run(Tracking(experiment="tiny"), at, "demo", "key")))
    run.log_dataset("motion", version, str(at.root), "training")
    run.log_artifact(report)
    run.log_points(points_of({f"m{i}": float(i) for i in range(1500)}, 0))

    client = connect(run.uri)
    stored = client.get_run(run.id)
    assert client.get_experiment(stored.info.experiment_id).name == "tiny"
    (dataset,) = stored.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("motion", version)
    assert {tag.key: tag.value for tag in dataset.tags}["data_version"] == version
    assert (at.artifacts / run.id / "artifacts" / "report.html").is_file()
    assert len(stored.data.metrics) == 1500
    environment = read_environment(run.uri, run.id)
    assert environment is not None
    assert environment.code_revision
    assert "torch" in environment.packages


def test_unknown_run_has_no_environment(at: Workspace) -> None:
    uri = open_run(Tracking(), at, "demo", "key").uri
    assert read_environment(uri, "0" * 32) is None
    assert not run_exists(uri, "0" * 32)


def test_changed_code_is_recorded_in_a_continued_run(at: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(Tracking(), at, "demo", "key")
    began = connect(run.uri).get_run(run.id).data.tags["slowfast.code"]
    monkeypatch.setattr("slowfast_core.tracking.lineage.code_revision", lambda package: ("other", "diff"))
    open_run(Tracking(), at, "demo", "key")
    tags = connect(run.uri).get_run(run.id).data.tags
    assert tags["slowfast.began_with_code"] == began
    assert re.fullmatch(r"other\+[0-9a-f]{64}", tags["slowfast.code"])


def test_an_unusable_tracking_address_is_reported_in_one_line(at: Workspace) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri") as error:
        open_run(Tracking(uri=at.root.as_uri()), at, "demo", "key")
    assert "\n" not in str(error.value)


def test_a_missing_database_is_created(tmp_path: Path) -> None:
    run = open_run(Tracking(), Workspace(tmp_path / "new"), "demo", "key")
    assert run_exists(run.uri, run.id)


def test_ui_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tracking database"):
        serve_ui(Workspace(tmp_path))


def test_the_data_report_is_an_artifact_of_the_run(at: Workspace, tmp_path: Path) -> None:
    run = open_run(Tracking(), at, "demo train", "key-1")
    run.log_data_report(tmp_path / "none")
    (tmp_path / "validate").mkdir()
    for name in ("report.html", "coverage.json"):
        (tmp_path / "validate" / name).write_text("{}")
    run.log_data_report(tmp_path / "validate")
    run.finish()
    kept = connect(run.uri).list_artifacts(run.id, "data")
    assert {file.path for file in kept} == {"data/report.html", "data/coverage.json"}
