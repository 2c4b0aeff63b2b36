"""`compute.gpus_per_worker: auto`: detection of GPUs, the resolved number, and the inputs of the training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from nodes import cluster_of

from pipelines.docker import _gpus
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import load_recipe, parse_recipe
from slowfast_core.recipe.schema import Compute
from slowfast_core.training.gpus import gpus_found, gpus_of_a_worker, unused_gpus
from slowfast_core.workspace import Workspace

NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def test_auto_is_the_default() -> None:
    assert Compute().gpus_per_worker == "auto"
    assert load_recipe("demo").compute.gpus_per_worker == "auto"
    with pytest.raises(ValueError, match="still 'auto'"):
        _ = Compute().gpus


@pytest.mark.parametrize(
    ("found", "workers", "least", "gpus"),
    [(0, 1, None, 0), (1, 1, None, 1), (8, 1, None, 1), (1, 2, None, 0), (2, 2, None, 1), (1, 4, 1, 1), (1, 4, 2, 0)],
)
def test_either_all_workers_get_a_gpu_or_none(found: int, workers: int, least: int | None, gpus: int) -> None:
    compute = Compute(workers=workers, min_workers=least)
    assert gpus_of_a_worker(compute, found) == gpus
    notes = unused_gpus(compute, found)
    assert bool(notes) == (found > 0 and gpus == 0)
    assert all(f"set compute.workers to at most {found}" in note for note in notes)


@pytest.mark.parametrize("value", ["Auto", "1", -1, 0.5, True, None, [1]])
def test_other_values_are_refused(value: object) -> None:
    tree = {"name": "r", "data": {"name": "d"}, "compute": {"gpus_per_worker": value}}
    with pytest.raises(InputError, match=r"^compute\.gpus_per_worker: .* is not 'auto', 0 or 1 "):
        parse_recipe(tree)


def test_auto_is_resolved_in_recipe_and_branch_and_explicit_values_stay() -> None:
    recipe = load_recipe("demo", ["finetune.compute.gpus_per_worker=0"]).with_gpus(1)
    assert recipe.finetune is not None
    assert (recipe.compute.gpus, recipe.finetune.compute.gpus) == (1, 0)
    assert parse_recipe(recipe.to_json()) == recipe
    assert load_recipe("kinetics400/slowfast_8x8_r50").with_gpus(0).compute.gpus == 1


def train(at: Workspace, recipe: Path, *overrides: str) -> str:
    """The error of a training that is refused before any worker starts."""
    command = [str(Path(sys.executable).with_name("slowfast")), "train", str(recipe), "--workspace", str(at.root)]
    for override in overrides:
        command += ["--set", override]
    ended = subprocess.run(command, env=NO_GPU, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2, ended.stderr
    return ended.stderr


def test_without_a_gpu_auto_is_the_same_training_as_0(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at = tiny_workspace(tmp_path / "w")
    started = []
    for gpus in ("auto", "0"):
        message = train(at, tiny_recipe, "train.batch_norm=sync", f"compute.gpus_per_worker={gpus}")
        assert message.startswith("slowfast: synchronised batch norm needs GPUs")
        partial = at.run("tiny", ".train.partial")
        started.append((partial / "inputs.sha256").read_text())
        assert json.loads((partial / "inputs.json").read_text())["compute"]["gpus_per_worker"] == 0
    assert started[0] == started[1]


@pytest.mark.exhaustive
def test_gpus_of_a_named_cluster_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU is needed: Ray trusts the declared resources. A driver reads the token only once per process."""
    token = tmp_path / "token"
    token.write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with cluster_of(1, "--num-gpus=2") as (address, _):
        code = f"from {gpus_found.__module__} import *; print(gpus_found(Compute(address={address!r})))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout == "2\n"


def test_containers_get_gpus_only_if_this_machine_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    auto = load_recipe("demo")
    assert gpus_found(auto.compute) == 0
    assert _gpus(auto) == {}
    assert _gpus(load_recipe("demo", ["finetune.compute.gpus_per_worker=1"]))["device_requests"]
