"""Undecodable clips in training are left out, counted and logged; too many end the training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast_core.data.manifest import read_manifest
from slowfast_core.errors import InputError
from slowfast_core.model.weights import load_weights, weights_digest
from slowfast_core.recipe.load import load_recipe
from slowfast_core.training.collective import Collective
from slowfast_core.training.guards import BadClips
from slowfast_core.training.job import Job
from slowfast_core.training.loop import train_worker
from slowfast_core.workspace import Workspace

CPU = torch.device("cpu")
Trained = tuple[Job, list[dict[str, Any]]]
Train = Callable[..., Trained]


@pytest.fixture
def train(tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path) -> Train:
    """Train with one worker in this process, without Ray, after damaging the clips of the given rows."""

    def run(name: str, bad: list[int], *overrides: str) -> Trained:
        recipe = load_recipe(str(tiny_recipe), ["train.epochs=1", "compute.workers=1", *overrides])
        store = tmp_path / name / "store"
        shutil.copytree(tiny_workspace(tmp_path / name).data("motion", "extract") / "store", store)
        rows = read_manifest(store / "manifest.parquet").split("train").rows
        for row in bad:
            (store / rows["path"].iloc[row]).unlink()  # it may be a link to a file that other tests use
            (store / rows["path"].iloc[row]).write_bytes(b"damaged")
        job = Job(recipe, "", store, tmp_path / name, None)
        job.prepare()
        threads = torch.get_num_threads()
        train_worker(job, 0, 1, CPU, lambda epoch: None, lambda measured: None)
        torch.set_num_threads(threads)
        return job, [json.loads(line) for line in job.log.read_text().splitlines()]

    return run


def digest(job: Job) -> str:
    return weights_digest(load_weights(job.folder / "model.safetensors"))


def test_a_part_without_clips_does_not_change_frozen_statistics(train: Train) -> None:
    settings = ("train.batch=2", "train.accumulate=2", "train.batch_norm=frozen", "train.max_bad_share=1")
    job, log = train("frozen", list(range(0, 24, 2)), *settings)
    assert any("loss" in line for line in log)
    state = load_weights(job.folder / "model.safetensors")
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    assert means
    assert not any(mean.any() for mean in means)


def test_a_shorter_refusal_replaces_a_longer_one(train: Train) -> None:
    job, _ = train("refused", [])
    job.prepare()
    job.refuse(InputError("a long reason of many words", "somewhere", "fix it"))
    job.refuse(InputError("short", "there", "fix it"))
    with pytest.raises(InputError, match=r"^short \(there\); fix it$"):
        job.check()


def test_bad_clips_are_left_out_and_logged_once(train: Train) -> None:
    job, log = train("some", [3, 20], "train.max_bad_share=0.1", "train.epochs=2")
    notes = [line["note"] for line in log if "cannot be decoded" in line.get("note", "")]
    assert len(notes) == 1
    assert notes[0].startswith("2 clips cannot be decoded and are left out: clips/")
    steps = [line for line in log if "loss" in line]
    assert [line["bad_clips"] for line in steps] == [2, 2]
    job.check()
    again, _ = train("again", [3, 20], "train.max_bad_share=0.1", "train.epochs=2", "compute.loader_workers=1")
    assert digest(again) == digest(job)


def test_too_many_bad_clips_end_the_training_and_are_named(train: Train) -> None:
    job, _ = train("many", [3, 20], "train.max_bad_share=0.05")
    assert not (job.folder / "model.safetensors").exists()
    rows = read_manifest(job.store / "manifest.parquet").split("train").rows
    named = [rows["path"].iloc[row] for row in (3, 20)]
    with pytest.raises(InputError) as caught:
        job.check()
    assert f"2 of 32 training clips cannot be decoded (train.max_bad_share 0.05): {', '.join(named)}" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_a_step_without_good_clips_changes_no_statistics(train: Train) -> None:
    job, log = train("all", list(range(32)), "train.max_bad_share=1", "train.weight_decay=0")
    state = load_weights(job.folder / "model.safetensors")
    assert all(torch.equal(t, torch.zeros_like(t)) for name, t in state.items() if name.endswith("running_mean"))
    assert log[-1]["loss"] == log[-1]["clips_per_second"] == 0


def test_each_bad_row_counts_once(tmp_path: Path) -> None:
    bad = BadClips(rows=100, max_share=0.02, collective=Collective(0, 1, tmp_path, 1))
    bad.add([])
    assert bad.gather() == []
    bad.add([7, 3])
    bad.add([3])
    assert (bad.gather(), bad.too_many) == ([3, 7], False)
    bad.add([7, 9])
    assert (bad.gather(), bad.known, bad.too_many) == ([9], [3, 7, 9], True)
