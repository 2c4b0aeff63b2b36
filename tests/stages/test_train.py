"""The training stage with real Ray workers gives the same weights every time, also after a kill.

The compared trainings run at the same time, since most of their time is the start of Ray.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trainings import Training, lines_of

from slowfast_core.model.folder import read_checkpoint
from slowfast_core.model.weights import load_weights, weights_digest
from slowfast_core.once import read_result
from slowfast_core.recipe.load import load_recipe
from slowfast_core.stages.flow import trained_already
from slowfast_core.tracking.runs import connect
from slowfast_core.workspace import Workspace

EPOCHS, STEPS = 10, 4  # epochs and steps per epoch of the tiny recipe: 32 training videos in batches of 8
EPOCH_ENDS = [STEPS * epoch for epoch in range(1, EPOCHS + 1)]


def losses_of(training: Training) -> dict[int, float]:
    """Loss of each step at the end of an epoch; steps repeated by a resumed training must have the same loss."""
    losses: dict[int, float] = {}
    for line in lines_of(training.folder / "log.jsonl"):
        if line.get("step") in EPOCH_ENDS:
            assert losses.setdefault(line["step"], line["loss"]) == line["loss"]
    return losses


@dataclass
class Trained:
    """`killed` was killed and resumed with settings that cannot affect results; `tuned` started from `plain`."""

    plain: Training
    killed: Training
    tuned: Training
    results: dict[str, dict[str, Any]]
    checkpoints: list[str]  # of `killed`, the last of which was then damaged


@pytest.fixture(scope="module")
def trained(
    tiny_recipe: Path,
    tiny_workspace: Callable[[Path], Workspace],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Trained]:
    root = tmp_path_factory.mktemp("trained")
    plain, killed, tuned = (Training(tiny_recipe, tiny_workspace(root / name)) for name in ("plain", "killed", "tuned"))
    try:
        plain.start()
        killed.start()
        killed.wait_for_checkpoints(2)
        killed.kill()
        checkpoints = sorted(path.name for path in (killed.partial / "checkpoints").glob("step-*"))
        newest = killed.partial / "checkpoints" / checkpoints[-1] / "state.pt"
        newest.write_bytes(newest.read_bytes()[:-100])
        changed = ("compute.loader_workers=1", "compute.frame_cache_mb=0", "train.keep_checkpoints=1")
        killed.overrides = (*changed, "compute.gpus_per_worker=auto")  # resolved to 0 on a machine without GPUs
        killed.start()
        results = {"plain": plain.finish()}
        changes = ("model.lateral_kernel=3", "train.epochs=1", "compute.workers=1")
        tuned.overrides = (f"train.init_from={plain.folder}", *changes)
        tuned.start()
        results |= {"killed": killed.finish(), "tuned": tuned.finish()}
        yield Trained(plain, killed, tuned, results, checkpoints)
    finally:
        for training in (plain, killed, tuned):
            training.kill()


def test_the_result_records_the_digest_of_the_weights(trained: Trained) -> None:
    for training, name in ((trained.plain, "plain"), (trained.killed, "killed"), (trained.tuned, "tuned")):
        weights = load_weights(training.folder / "model.safetensors")
        assert weights_digest(weights) == trained.results[name]["weights_digest"]
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_killed_training_with_other_folder_and_loaders_reaches_the_same_weights(trained: Trained) -> None:
    assert trained.results["killed"]["weights_digest"] == trained.results["plain"]["weights_digest"]
    losses = losses_of(trained.plain)
    assert list(losses) == EPOCH_ENDS
    assert losses_of(trained.killed) == losses


def test_a_killed_training_reports_where_it_resumes(trained: Trained) -> None:
    *whole, damaged = trained.checkpoints
    summary = trained.results["killed"]["summary"]
    assert f"checkpoint {damaged} is incomplete and was skipped" in summary
    assert f"resumed from checkpoint {whole[-1]}" in summary
    assert "resumed" not in trained.results["plain"]["summary"]
    log = lines_of(trained.killed.folder / "log.jsonl")
    resumed = [i for i, line in enumerate(log) if line.get("note", "").startswith("resumed")]
    assert len(resumed) == 1
    step = int(whole[-1].removeprefix("step-"))
    assert 0 < step < EPOCHS * STEPS
    assert min(line["step"] for line in log[resumed[0] + 1 :]) > step


def test_the_last_checkpoints_are_kept(trained: Trained) -> None:
    newest = [f"step-{step:09d}" for step in EPOCH_ENDS]
    for training, keep in ((trained.plain, 3), (trained.killed, 1)):
        assert sorted(path.name for path in (training.folder / "checkpoints").iterdir()) == newest[-keep:]


def test_a_finished_training_is_not_run_again(trained: Trained) -> None:
    trained.plain.start()
    again = trained.plain.finish()
    assert again["status"] == "unchanged"
    assert again["weights_digest"] == trained.results["plain"]["weights_digest"]
    auto = load_recipe(str(trained.plain.recipe), ["compute.gpus_per_worker=auto"])
    done = trained_already(auto, trained.plain.at)  # also on another machine, with any GPUs
    assert done is not None
    assert done.weights_digest == again["weights_digest"]


def test_the_output_is_a_readable_checkpoint(trained: Trained) -> None:
    recipe, labels = read_checkpoint(trained.plain.folder)
    assert recipe == load_recipe(str(trained.plain.recipe))
    assert len(labels) == 8
    record = json.loads((trained.plain.folder / "checkpoint.json").read_text())
    assert record["data_version"] == read_result(trained.plain.at.data("motion", "extract")).data_version
    assert record["parent_checkpoint"] is None
    assert not trained.plain.partial.exists()


def test_training_from_start_weights_reports_the_loaded_tensors(trained: Trained) -> None:
    result = trained.results["tuned"]
    assert "start weights: " in result["summary"]
    tensors = len(load_weights(trained.tuned.folder / "model.safetensors"))
    assert f"{tensors - 4} tensors loaded, 4 new (trunk.laterals.0.conv.weight, " in result["summary"]
    assert "4 dropped (" in result["summary"]
    record = json.loads((trained.tuned.folder / "checkpoint.json").read_text())
    assert record["parent_checkpoint"] == trained.results["plain"]["weights_digest"]
    assert result["weights_digest"] != record["parent_checkpoint"]


def test_mlflow_has_the_loss_curve_and_the_recipe(trained: Trained) -> None:
    client = connect(trained.plain.at.tracking_uri)
    experiment = client.get_experiment_by_name("slowfast")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny train"
    points = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss")}
    assert {step: points[step] for step in EPOCH_ENDS} == losses_of(trained.plain)
    assert len(client.get_metric_history(run.info.run_id, "learning_rate")) == len(points)
    assert {"accuracy", "clips_per_second"} <= set(run.data.metrics)
    expected = {"train.epochs": "10", "clip.alpha": "2", "model.width": "8", "compute.workers": "2"}
    assert expected.items() <= run.data.params.items()
    record = json.loads((trained.plain.folder / "checkpoint.json").read_text())
    assert record["run_id"] == run.info.run_id


def test_a_killed_training_is_one_run_in_mlflow(trained: Trained) -> None:
    client = connect(trained.killed.at.tracking_uri)
    [run] = client.search_runs([client.get_experiment_by_name("slowfast").experiment_id])
    assert run.info.status == "FINISHED"
    points = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss")}
    assert set(EPOCH_ENDS[EPOCH_ENDS.index(int(trained.checkpoints[-1][-9:])) :]) <= set(points)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.batch=64",), "32 training samples are fewer than train.batch = 64"),
        (("model.classes=7",), "the data has 8 classes, the model 7"),
        (("model.classes=9",), "the data has 8 classes, the model 9 ("),
        (("train.init_from=nowhere",), "no model.safetensors (nowhere); name a checkpoint folder"),
        (("model.width=16", "train.init_from={plain}"), "the start weights belong to another kind of network"),
    ],
)
def test_incompatible_settings_are_refused_before_ray_starts(
    trained: Trained,
    tiny_recipe: Path,
    tiny_workspace: Callable[[Path], Workspace],
    tmp_path: Path,
    overrides: tuple[str, ...],
    message: str,
) -> None:
    filled = tuple(override.format(plain=trained.plain.folder) for override in overrides)
    training = Training(tiny_recipe, tiny_workspace(tmp_path / "w"), filled)
    assert message in training.refusal()
    assert not training.folder.exists()
    assert not (training.partial / "ray").exists()


@pytest.mark.exhaustive
def test_too_many_bad_clips_end_every_worker_with_exit_code_2(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    training = Training(tiny_recipe, tiny_workspace(tmp_path / "w"))
    for clip in sorted((training.at.data("motion", "extract") / "store/clips").glob("*.mp4"))[:20]:
        clip.unlink()
    message = training.refusal()
    assert " of 32 training clips cannot be decoded (train.max_bad_share 0.01): clips/" in message
    assert not training.folder.exists()


def test_a_missing_extraction_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    assert "stage 'extract' has not been run" in Training(tiny_recipe, Workspace(tmp_path)).refusal()
