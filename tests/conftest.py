"""Fixtures of the tests that run whole stages: a tiny data set, generated once, and a small disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proxy_fixtures import proxy, upload  # noqa: F401  (fixtures)
from s3_fixtures import new_bucket, s3, s3_server  # noqa: F401  (fixtures)

from slowfast_core.recipe.load import load_recipe
from slowfast_core.stages.flow import run_extract, run_ingest, run_validate
from slowfast_core.workspace import Workspace

# The value that the library sets, before any test imports Ray, which reads it once per process.
os.environ.setdefault("RAY_AUTH_MODE", "token")
DISK_MB = 12  # enough for the tiny workspace and 2 or 3 checkpoints of 3 MB
TINY_RECIPE = """
name: tiny
data:
  name: motion
  annotations: {train: train.csv, val: val.csv}
  synthetic: {train_videos: 4, val_videos: 2, size: 32, fps: 8, seconds: 2}
  store: {short_side: 0}
clip: {T: 2, tau: 4, alpha: 2}
model: {depth: 18, width: 8, beta: 0.25, classes: 8}
train: {epochs: 10, batch: 8, learning_rate: 0.02, warmup_epochs: 1, jitter: [32, 36], crop: 32, validate_every: 0}
evaluate: {clips: 2, crops: 1, size: 32}
register: {floor: null}
compute: {workers: 2, gpus_per_worker: 0, frame_cache_mb: 50}
"""


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a recipe that trains in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def _tiny_data(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = Workspace(tmp_path_factory.mktemp("tiny"))
    recipe = load_recipe(str(tiny_recipe))
    for stage in (run_ingest, run_validate, run_extract):
        stage(recipe, at)
    return at.root


@pytest.fixture(scope="session")
def tiny_workspace(_tiny_data: Path) -> Callable[[Path], Workspace]:
    """Create a workspace in a folder, in which the tiny data set is already extracted."""

    def make(folder: Path) -> Workspace:
        shutil.copytree(_tiny_data, folder)
        return Workspace(folder)

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of DISK_MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # SQLite may still have a file open
