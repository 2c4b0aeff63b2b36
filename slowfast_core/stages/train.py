"""The training stage: checks the inputs, runs the workers and writes the record of the trained weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.errors import InputError
from slowfast_core.files import copy_whole, write_whole
from slowfast_core.json_lines import JsonLines, read_lines
from slowfast_core.model.folder import WEIGHTS, recorded_digest
from slowfast_core.once import StageResult, finished, read_result, run_once
from slowfast_core.recipe.load import Recipe
from slowfast_core.stopping import Stopped
from slowfast_core.training.checks import check_data, check_machine, check_start
from slowfast_core.training.follow import followed, last_metrics
from slowfast_core.training.gpus import gpus_found, gpus_of_a_worker, unused_gpus
from slowfast_core.training.job import Job
from slowfast_core.training.ray_workers import RAY, cluster_of, run_workers
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from slowfast_core.tracking.runs import Run

START = "start.safetensors"  # copy of the start weights in the stage's folder
# Settings of `train` that do not affect the weights: changing them does not cause another training.
NOT_IN_THE_WEIGHTS = {
    "init_from",
    "allow_overlap",
    "keep_checkpoints",
    "checkpoint_minutes",
    "max_restarts",
    "max_bad_share",
    "checkpoint_steps",
    "checkpoint_store",
    "checkpoint_endpoint_url",
    "log_samples",
}


def train(recipe: Recipe, extracted: Path, output: Path, at: Workspace, init_from: Path | None = None) -> StageResult:
    """Train on the clip store in `extracted`; write `model.safetensors` and `checkpoint.json` to `output`.

    `init_from` is the folder of the start weights. After a kill, the next call resumes from the last checkpoint. Raises
    InputError when the recipe does not fit the data, the start weights or the machine.
    """
    recipe, notes = _with_gpus(recipe, extracted, output, init_from)
    inputs = train_inputs(recipe, extracted, init_from)
    parent, data_version = inputs["parent"], inputs["data_version"]

    def work(partial: Path) -> Mapping[str, Any]:
        fields = _fit(recipe, extracted / "store", partial, at, init_from, parent, data_version, notes)
        return {**fields, "versions": read_result(extracted).versions}

    return run_once("train", output, inputs, work, keep="checkpoints")


def trained(recipe: Recipe, extracted: Path, output: Path, init_from: Path | None = None) -> StageResult | None:
    """The result in `output` if it is up to date, so that `train` would not run; otherwise None.

    With `compute.gpus_per_worker: auto`, a training with GPUs and one without are both up to date.
    """
    found = _finished(recipe, extracted, output, init_from)
    return found and found[1]


def _finished(
    recipe: Recipe, extracted: Path, output: Path, init_from: Path | None
) -> tuple[Recipe, StageResult] | None:
    for known in (recipe.with_gpus(0), recipe.with_gpus(1)):
        if result := finished("train", output, train_inputs(known, extracted, init_from)):
            return known, result
    return None


def _with_gpus(recipe: Recipe, extracted: Path, output: Path, init_from: Path | None) -> tuple[Recipe, list[str]]:
    """The recipe with `compute.gpus_per_worker: auto` resolved to a number, and notes for the log.

    The number is taken from a finished training with the same inputs, otherwise from the available GPUs.
    """
    if recipe.compute.gpus_per_worker != "auto":
        return recipe, []
    if done := _finished(recipe, extracted, output, init_from):
        return done[0], []
    found = gpus_found(recipe.compute)
    return recipe.with_gpus(gpus_of_a_worker(recipe.compute, found)), unused_gpus(recipe.compute, found)


def train_inputs(recipe: Recipe, extracted: Path, init_from: Path | None) -> dict[str, Any]:
    """Everything the weights depend on."""
    data_version = read_result(extracted).data_version or ""
    parent = recorded_digest(init_from) if init_from else None
    start = {name: value for name, value in recipe.train.inputs().items() if name not in NOT_IN_THE_WEIGHTS}
    kept = {"workers", "min_workers", "cpus_per_worker", "gpus_per_worker", "precision", "compile", "deterministic"}
    compute = recipe.compute.model_dump(include=kept)
    inputs: dict[str, Any] = {
        "clip": recipe.clip.inputs(),
        "model": recipe.model.inputs(),
        "train": start,
        "compute": compute,
    }
    if recipe.train.final == "best":  # the best weights depend on the held-out split at this size
        inputs["evaluate"] = recipe.evaluate.model_dump(include={"size"})
    return inputs | {"seed": recipe.seed, "data_version": data_version, "parent": parent}


def _fit(
    recipe: Recipe,
    store: Path,
    folder: Path,
    at: Workspace,
    init_from: Path | None,
    parent: str | None,
    data_version: str,
    notes: Sequence[str],
) -> Mapping[str, Any]:
    from slowfast_core.data.manifest import read_manifest
    from slowfast_core.training.checkpoint_store import fetch_newest
    from slowfast_core.training.overlap import check_overlap, write_learned_from

    check_machine(recipe)
    labels, steps = check_data(recipe, store)
    manifest = read_manifest(store / "manifest.parquet")
    classifier = check_start(recipe, init_from, labels) if init_from else False
    overlap = check_overlap(recipe, manifest, init_from) if init_from else []
    job = Job(recipe, data_version, store, folder, folder / START if init_from else None, classifier, parent)
    job.prepare()
    write_learned_from(folder, manifest, init_from)
    if init_from:  # a downloaded model is temporary, and on a cluster only this folder is visible to every worker
        copy_whole(init_from / WEIGHTS, folder / START)
    fetched = fetch_newest(job)
    for note in notes:
        JsonLines(job.log)(note=note)
    with cluster_of(job, at):
        run, absent = _open_run(recipe, at, folder, data_version)
        with run, followed(job.log, steps, run) as logged:
            try:
                run_workers(job)
            finally:
                job.check()  # the error of a worker explains more than Ray's error that it ended
            if job.stop.exists():
                raise Stopped(folder)
    for left in (RAY, "hosts"):
        shutil.rmtree(folder / left, ignore_errors=True)
    for spent in (folder / START, job.refusal):
        spent.unlink(missing_ok=True)
    _write_curves(job)
    known = {"labels": labels, "data_version": data_version, "parent_checkpoint": parent, "run_id": run.id}
    return _write_checkpoint(job, known, [*fetched, *absent, *logged, *overlap])


def _write_curves(job: Job) -> None:
    """Write the logged metrics for `dvc plots`: `curve.json` has one entry a step, `held_out.json` one a validation."""
    # A resumed training logs some steps again.
    by_step = {line["step"]: line for line in read_lines(job.log) if "step" in line}
    curve = [by_step[step] for step in sorted(by_step)]
    held_out = [line for line in curve if "val_loss" in line]
    for name, points in (("curve", curve), ("held_out", held_out)):
        write_whole(job.folder / f"{name}.json", json.dumps(points, indent=1))


def _write_checkpoint(job: Job, known: Mapping[str, Any], notes: Sequence[str]) -> Mapping[str, Any]:
    """Write `checkpoint.json`, the record of the trained weights, and return the fields of the stage's result."""
    from slowfast_core.model.weights import load_weights, weights_digest

    digest = weights_digest(load_weights(job.folder / "model.safetensors"))
    record = {**json.loads(job.recipe.to_json()), **known, "weights_digest": digest}
    write_whole(job.folder / "checkpoint.json", json.dumps(record, indent=1))
    reached, epochs = last_metrics(job.log), f"{job.recipe.train.epochs} epochs"
    done = f"loss {reached['loss']:.3f} after {epochs}" if reached else f"{epochs} were already done"
    return {
        "outputs": {"weights": "model.safetensors", "checkpoint": "checkpoint.json"},
        "summary": "; ".join([done, *notes]),
        "digest": digest,
        "weights_digest": digest,
        "data_version": job.data_version,
        "metrics": reached,
    }


def _open_run(recipe: Recipe, at: Workspace, folder: Path, data_version: str) -> tuple[Run, list[str]]:
    """Open the MLflow run of this training, or reopen the run of an interrupted one; return it with notes for the log.

    If MLflow does not answer, a training that has a run resumes without it; for a new training, raises InputError.
    """
    from slowfast_core.tracking.continued import known_run, open_run_of
    from slowfast_core.tracking.failures import mlflow_in_one_line

    name, tags = f"{recipe.name} train", {"slowfast.stage": "train", "slowfast.recipe": recipe.name}
    try:
        run = open_run_of(folder, recipe.tracking, at, name, tags)
    except InputError:
        if known := known_run(folder, recipe.tracking, at, name):
            return known, ["MLflow was not available when the training resumed"]
        raise
    with mlflow_in_one_line(run.uri):
        run.log_params(clip=recipe.clip, model=recipe.model, train=recipe.train, compute=recipe.compute)
        run.log_dataset(recipe.data.name, data_version, recipe.data.source, "training")
        run.log_data_report(at.data(recipe.data.name, "validate"))
    return run, []
