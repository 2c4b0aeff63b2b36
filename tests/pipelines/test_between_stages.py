"""Tasks that a cluster runs around the stages: the first task, the condition of training, the exit handler."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from components.apply_parameters.apply import resolve
from components.check_training.check import check
from components.close_runs.report import cause_of, close_and_report
from components.select_model.versions import versions_of
from slowfast_core import once as stage_module
from slowfast_core.errors import InputError
from slowfast_core.once import read_result, run_once
from slowfast_core.ray_jobs.dispatch import run_stage
from slowfast_core.recipe.load import Recipe, load_recipe, parse_recipe
from slowfast_core.stages.flow import trained_already
from slowfast_core.tracking.runs import connect, open_run
from slowfast_core.workspace import Workspace

TINY = Path(__file__).parent / "tiny.yaml"


def prepare(at: Path, *overrides: str, workers: int = 0, epochs: int = 0, granted: tuple[int, int] = (1, 0)) -> tuple:
    recipe = load_recipe(str(TINY), overrides)
    return resolve(recipe.to_json(), str(at), workers, epochs, "http://mlflow:5000", granted, True)


def test_prepare_applies_changed_parameters_and_checks_the_recipe_again(tmp_path: Path) -> None:
    first, _, branch, _ = prepare(tmp_path, workers=2, epochs=7, granted=(2, 0))
    main = parse_recipe(first)
    assert (main.compute.workers, main.train.epochs, main.tracking.uri) == (2, 7, "http://mlflow:5000")
    assert main.finetune is None
    tuned = parse_recipe(branch)
    assert (tuned.name, tuned.compute.workers, tuned.train.epochs) == ("tiny_ava", 1, 1)
    with pytest.raises(InputError, match=r"is not divisible by compute\.workers 3"):
        prepare(tmp_path, workers=3, granted=(9, 0))


def test_prepare_refuses_more_workers_than_the_pod_has_resources_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training needs 2 CPUs, but its pod has 1"):
        prepare(tmp_path, workers=2)
    with pytest.raises(InputError, match="training needs 2 GPUs, but its pod has 1"):
        prepare(tmp_path, "compute.gpus_per_worker=1", workers=2, granted=(2, 1))
    prepare(tmp_path, "compute.gpus_per_worker=1", workers=2, granted=(0, 0))  # a Ray cluster has the resources


def test_prepare_refuses_unresolved_automatic_gpus(tmp_path: Path) -> None:
    for part in ("", "finetune."):
        with pytest.raises(InputError, match="gpus_per_worker is 'auto', but the resources of the pods are fixed"):
            prepare(tmp_path, f"{part}compute.gpus_per_worker=auto")


def test_prepare_refuses_a_recipe_of_another_dag(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another DAG"):
        resolve("kinetics400/slow_8x8_r50", str(tmp_path), 0, 0, "", (0, 0), True)


def test_the_source_version_changes_with_the_source_or_after_a_loss_of_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("train.csv", "val.csv", "labels.pbtxt", "a.mp4"):
        (source / name).write_text(name)
    folders = [tmp_path / "data" / data / stage for data in ("tiny-motion", "tiny-actors") for stage in STAGES]
    for folder in folders:
        run_once(folder.name, folder, {}, lambda _: {})

    def versions() -> tuple[str, str]:
        _, first, _, branch = prepare(tmp_path, f"finetune.data.source={source}")
        return first, branch

    before = versions()
    assert versions() == before
    (source / "a.mp4").write_text("another one")
    assert versions()[0] == before[0]
    assert versions()[1] != before[1]
    (folders[0] / "stage.json").unlink()
    assert versions()[0] != versions()[0]  # no cached result may be used


STAGES = ("ingest", "validate", "extract")


def test_kubeflow_caching_is_consistent_with_the_workspace(tmp_path: Path) -> None:
    """Settings change under one data set's name; the simulated cache of Kubeflow is keyed by a task's inputs."""
    at, cache, executed = Workspace(tmp_path / "at"), set(), []
    small = ["finetune=null", "data.synthetic.train_videos=1"]
    recipes = {
        "a": load_recipe(str(TINY), small),
        "b": load_recipe(str(TINY), [*small, "data.synthetic.seed=1"]),
        "c": load_recipe(str(TINY), [*small, "data.store.every=2"]),
    }
    expected: dict[str, list[str]] = {}
    for name in "aaabcab":
        resolved, source, _, _ = resolve(recipes[name].to_json(), str(at.root), 0, 0, "", (0, 0), False)
        todo = [key for stage in STAGES if (key := (stage, resolved, source)) not in cache]
        for stage, text, _ in todo:
            run_stage(stage, parse_recipe(text), at)
        cache.update(todo)
        executed.append(len(todo))
        digests = [read_result(at.data("tiny-motion", stage)).digest for stage in STAGES]
        assert expected.setdefault(name, digests) == digests
    assert len({tuple(digests) for digests in expected.values()}) == 3
    assert executed == [3, 3, 0, 3, 3, 3, 3]  # the second run finds all up to date, the third is cached


@pytest.fixture
def trained_workspace(tmp_path: Path) -> tuple[Recipe, Workspace, Callable[[str], None]]:
    """A workspace with the records of a finished training, and a function that extracts another data version."""
    recipe, at = load_recipe(str(TINY)), Workspace(tmp_path)
    from slowfast_core.stages.train import train_inputs

    def extract(version: str) -> None:
        run_once("extract", at.data("tiny-motion", "extract"), {"v": version}, lambda _: {"data_version": version})

    def train(folder: Path) -> dict[str, str]:
        (folder / "checkpoint.json").write_text(json.dumps({"data_version": "one.dir"}))
        return {"weights_digest": "w1", "digest": "w1"}

    extract("one.dir")
    run_once("train", at.run("tiny", "train"), train_inputs(recipe, at.data("tiny-motion", "extract"), None), train)
    return recipe, at, extract


def test_training_is_skipped_with_the_reason(trained_workspace: tuple) -> None:
    recipe, at, extract = trained_workspace
    again = check(recipe.to_json(), str(at.root), "one.dir", "")
    assert (again.train, again.data_version) == ("no", "one.dir")
    assert "up to date with data version one.dir and the recipe; weights w1 are reused" in again.reason
    assert trained_already(recipe, at)
    extract("two.dir")
    moved = check(recipe.to_json(), str(at.root), "", "")
    assert (moved.train, moved.reason) == ("yes", "the data version changed: one.dir -> two.dir")
    assert trained_already(recipe, at) is None


def test_a_deleted_training_is_run_again(trained_workspace: tuple) -> None:
    recipe, at, _ = trained_workspace
    shutil.rmtree(at.run("tiny", "train"))
    assert check(recipe.to_json(), str(at.root), "", "").train == "yes"


def test_the_cached_evaluation_depends_on_the_content_of_the_workspace(trained_workspace: tuple) -> None:
    recipe, at, extract = trained_workspace

    def versions() -> str:
        return versions_of(recipe.to_json(), str(at.root))

    def evaluate_and_register(inputs: str) -> None:
        for stage in ("evaluate", "register"):
            run_once(stage, at.run("tiny", stage), {"of": inputs}, lambda _: {})

    assert versions() != versions()  # no result to reuse
    evaluate_and_register("one")
    first = versions()
    assert first.startswith("one.dir-w1-")
    evaluate_and_register("one")
    assert versions() == first
    evaluate_and_register("two")
    evaluate_and_register("one")
    assert versions() != first
    first = versions()
    extract("two.dir")
    extract("one.dir")
    assert versions() != first


@pytest.fixture
def raise_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Simulate a release in which the code version of a stage is higher by one."""

    def to_next(stage: str) -> None:
        versions = yaml.safe_load(stage_module.VERSIONS.read_text())
        file = tmp_path / "next.yaml"
        file.write_text(yaml.safe_dump({**versions, stage: versions[stage] + 1}))
        monkeypatch.setattr(stage_module, "VERSIONS", file)

    return to_next


def test_kubeflow_caching_depends_on_the_code_versions(
    trained_workspace: tuple, raise_version: Callable[[str], None]
) -> None:
    recipe, at, _ = trained_workspace
    for stage in STAGES[:2]:
        run_once(stage, at.data("tiny-motion", stage), {}, lambda _: {})
    for stage in ("evaluate", "register"):
        run_once(stage, at.run("tiny", stage), {}, lambda _: {})

    def source() -> str:
        return prepare(at.root)[1]

    def versions() -> str:
        return versions_of(recipe.to_json(), str(at.root))

    for look, stages in ((source, STAGES), (versions, ("evaluate", "register"))):
        for stage in stages:
            before = look()
            assert look() == before
            raise_version(stage)
            assert look() != before


def test_a_new_code_version_of_training_trains_again(
    trained_workspace: tuple, raise_version: Callable[[str], None]
) -> None:
    recipe, at, _ = trained_workspace
    now = yaml.safe_load(stage_module.VERSIONS.read_text())["train"]
    raise_version("evaluate")
    assert check(recipe.to_json(), str(at.root), "", "").train == "no"
    raise_version("train")
    again = check(recipe.to_json(), str(at.root), "", "")
    assert again[:2] == ("yes", f"the code of training changed: train {now} -> {now + 1}")


def test_a_changed_or_new_recipe_is_trained(trained_workspace: tuple) -> None:
    recipe, at, _ = trained_workspace
    longer = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": 3})})
    assert check(longer.to_json(), str(at.root), "", "")[:2] == (
        "yes",
        "the recipe or its start weights changed",
    )
    new = recipe.model_copy(update={"name": "new"})
    assert "no finished training" in check(new.to_json(), str(at.root), "", "").reason


def test_a_data_version_other_than_the_requested_one_stops_the_run(trained_workspace: tuple) -> None:
    recipe, at, _ = trained_workspace
    with pytest.raises(InputError, match=r"the data version is one\.dir, but zero\.dir was requested"):
        check(recipe.to_json(), str(at.root), "zero.dir", "")


def test_stopped_and_killed_stages_are_closed_in_mlflow_with_their_cause(tmp_path: Path) -> None:
    """One real process is terminated during its stage, and one is killed."""
    at = Workspace(tmp_path)
    for name, stop in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        environment = {**os.environ, "SLOWFAST_PIPELINE_RUN": f"run-{name}", "HOSTNAME": "train-pod"}
        child = subprocess.Popen(
            [sys.executable, "-c", STAGE, str(tmp_path), name], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "in the stage\n"
        child.send_signal(stop)
        assert child.wait(60) != 0
        child.stdout.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOWFAST_PIPELINE_RUN", "run-killed")
        report = close_and_report(str(tmp_path), "", ["slowfast"], "FAILED", "Task exit-handler-1 failed.")
    assert "# FAILED" in report
    assert "Cause: tiny train: its pod was killed" in report
    assert "MLflow run killed was still open and is closed." in report
    client = connect(at.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'slowfast'")
    ended = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in ended.items()} == {"stopped": "KILLED", "killed": "FAILED"}
    assert "its pod was killed" in ended["killed"].data.tags["slowfast.cause"]


@pytest.mark.parametrize("state", ["COMPLETE", "CACHED", "SUCCEEDED"])
def test_a_successful_run_has_no_cause(state: str, tmp_path: Path) -> None:
    """KFP 2.17 reports MLMD's state of the run, with an empty error message."""
    assert close_and_report(str(tmp_path), "", ["slowfast"], state, "") == f"# {state}\n\n"


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "RUNNING"])
def test_an_unsuccessful_run_has_a_cause(state: str, tmp_path: Path) -> None:
    """RUNNING is the state of a run whose launcher was killed."""
    assert "Cause: unknown" in close_and_report(str(tmp_path), "", ["slowfast"], state, "")


STAGE = """
import sys, time
from components.run_stage import report_start_and_failure
from slowfast_core.recipe.schema import Tracking
from slowfast_core.tracking.runs import open_run
from slowfast_core.workspace import Workspace
at = Workspace.at(sys.argv[1])
with report_start_and_failure("train", sys.argv[1], "tiny"), open_run(Tracking(), at, sys.argv[2], sys.argv[2]):
    print("in the stage", flush=True)
    time.sleep(60)
"""


def test_a_run_of_another_pipeline_stays_open(tmp_path: Path) -> None:
    at, recipe = Workspace(tmp_path), load_recipe(str(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOWFAST_PIPELINE_RUN", "another")
        run = open_run(recipe.tracking, at, "theirs", "key")
        patch.setenv("SLOWFAST_PIPELINE_RUN", "ours")
        assert "theirs" not in close_and_report(str(tmp_path), "", ["slowfast"], "SUCCEEDED", "")
    assert connect(at.tracking_uri).get_run(run.id).info.status == "RUNNING"


def test_the_runs_of_the_branch_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, recipe = Workspace(tmp_path), load_recipe(str(TINY))
    monkeypatch.setenv("SLOWFAST_PIPELINE_RUN", "ours")
    names = ["slowfast", "slowfast-ava"]
    runs = [open_run(recipe.tracking.model_copy(update={"experiment": name}), at, name, name) for name in names]
    report = close_and_report(str(tmp_path), "", names, "FAILED", "")
    assert all(f"MLflow run {name} was still open" in report for name in names)
    client = connect(at.tracking_uri)
    assert [client.get_run(run.id).info.status for run in runs] == ["FAILED", "FAILED"]


def test_a_refused_model_is_reported_as_the_cause(trained_workspace: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.select_model.component import select_model

    recipe, at, _ = trained_workspace
    monkeypatch.delenv("SLOWFAST_PIPELINE_RUN", raising=False)
    monkeypatch.setenv("SLOWFAST_PROGRESS", str(at.root / "pod.jsonl"))
    with pytest.raises(SystemExit, match="another run replaced the result w2 by w1"):
        select_model.python_func(recipe.to_json(), str(at.root), "w2", None)
    assert "select_model: another run replaced the result w2 by w1" in cause_of(at.root)


def test_the_cause_is_the_last_message_of_a_stage(tmp_path: Path) -> None:
    def write(pod: str, *events: tuple[str, str]) -> None:
        lines = [json.dumps({"event": kind, "recipe": "r", "stage": stage, "message": "m"}) for kind, stage in events]
        (tmp_path / f"{pod}.jsonl").write_text("\n".join(lines) + '\n{"stage": "tr')

    write("a", ("start", "ingest"), ("failed", "ingest"))
    os.utime(tmp_path / "a.jsonl", (1, 1))
    assert cause_of(tmp_path) == "r ingest: m"
    write("b", ("start", "ingest"), ("end", "ingest"))  # the retry succeeded
    assert cause_of(tmp_path) == ""
    write("c", ("start", "train"), ("refused", "train"))
    assert cause_of(tmp_path) == "r train: m"
