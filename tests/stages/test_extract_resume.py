"""Extraction interrupted by a kill, a full disk or the loss of a cluster node gives the same store in the end.

The sources are small; extraction takes time because the clips are larger and have a much higher rate.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from videos import ingested, kinetics_row, moving_frames, write_video

from slowfast_core.errors import InputError
from slowfast_core.parallel.ray_connection import patience
from slowfast_core.parallel.ray_tasks import run_on_cluster
from slowfast_core.recipe.load import Data, Store
from slowfast_core.stages.validate import validate
from slowfast_core.workspace import Workspace

VIDEOS = 6
DEADLINE = 120.0
START_LIMIT = 120  # seconds for each part of a cluster; Ray itself waits 15 s for its agents
STORE = Store(short_side=128, fps=60, gop=12)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ingested and validated videos and their recipe."""
    root = tmp_path_factory.mktemp("long")
    for number in range(VIDEOS):
        write_video(root / "videos" / f"{number}.mp4", moving_frames(30, seed=number), fps=4)
    rows = [kinetics_row(f"v{n}", f"videos/{n}.mp4", split="train" if n else "val") for n in range(VIDEOS)]
    rows.append(kinetics_row("part", "videos/1.mp4", start=2.0, end=5.0))
    data = Data(name="long", store=STORE)
    validate(data, ingested(root, rows), root / "validate")
    recipe = {"name": "long", "data": data.model_dump(), "model": {"classes": 2}}
    (root / "long.yaml").write_text(json.dumps(recipe))
    return root


class Extraction:
    """`slowfast extract` in its own workspace."""

    def __init__(self, root: Path, name: str) -> None:
        self.recipe, self.at = root / "long.yaml", Workspace(root / name)
        for stage in ("ingest", "validate"):
            self.at.data("long", stage).parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(root / stage, self.at.data("long", stage))
        self.output = self.at.data("long", "extract")
        self.partial = self.output.with_name(".extract.partial")

    def start(self, *overrides: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-c",
            "from pipelines.cli.main import main; main()",
            "extract",
            str(self.recipe),
            "--json",
        ]
        command += ["--workspace", str(self.at.root)]
        for override in overrides:
            command += ["--set", override]
        environment = {**os.environ, "DVC_STAGE": "extract"}  # the store is not pushed
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, preexec_fn=before, **pipes)

    def finish(self, process: subprocess.Popen[str] | None = None) -> dict[str, bytes]:
        """Wait for the end and return the contents of the store, by file name."""
        process = process or self.start()
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, errors
        assert sorted(path.name for path in self.output.iterdir()) == [
            "inputs.json",
            "inputs.sha256",
            "stage.json",
            "store",
        ]
        return {path.name: path.read_bytes() for path in self.finished(self.output)}

    def finished(self, folder: Path | None = None) -> list[Path]:
        return sorted(((folder or self.partial) / "store" / "clips").glob("*"))

    def wait_for(self, files: int, process: subprocess.Popen[str]) -> None:
        """Wait until `files` files are finished and another one is being written."""
        until = time.monotonic() + DEADLINE
        while len(self.finished()) < files or not any((self.partial / "scratch").glob("*")):
            assert process.poll() is None, "it ended too soon"
            assert time.monotonic() < until
            time.sleep(0.005)


@pytest.fixture(scope="module")
def reference(root: Path) -> dict[str, bytes]:
    store = Extraction(root, "reference").finish()
    assert len(store) == VIDEOS + 1
    return store


@pytest.mark.parametrize("moments", [(0, 3), pytest.param((0, 0, 1, 2, 3, 4, 5, 5), marks=pytest.mark.exhaustive)])
def test_a_killed_extraction_resumes_with_unfinished_files(
    root: Path, reference: dict[str, bytes], moments: tuple[int, ...]
) -> None:
    extraction = Extraction(root, f"killed{len(moments)}")
    kept: dict[Path, int] = {}
    for files in moments:
        process = extraction.start()
        extraction.wait_for(files, process)
        process.kill()
        process.communicate()
        assert not extraction.output.exists()
        assert kept.items() <= {path: path.stat().st_mtime_ns for path in extraction.finished()}.items()
        kept = {path: path.stat().st_mtime_ns for path in extraction.finished()}
        assert len(kept) >= files
    assert extraction.finish() == reference
    done = {path.name: path.stat().st_mtime_ns for path in extraction.finished(extraction.output)}
    assert {path.name: written for path, written in kept.items()}.items() <= done.items()


def test_a_full_disk_is_reported(root: Path, reference: dict[str, bytes]) -> None:
    extraction = Extraction(root, "room")
    limit = sorted(len(data) for data in reference.values())[1] + 1000  # space for two files
    process = extraction.start(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2, errors
    assert len(errors.splitlines()) == 1
    assert "cannot write the clip store: file too large" in errors
    assert not extraction.output.exists()
    for path in extraction.finished():
        assert path.read_bytes() == reference[path.name]


def test_a_missing_cluster_is_reported(root: Path) -> None:
    process = Extraction(root, "none").start("compute.address=127.0.0.1:1")
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2, errors
    assert "no Ray cluster" in errors.splitlines()[-1]


@contextmanager
def started_cluster(cpus: int, *more: int) -> Iterator[Any]:
    """A head node with `cpus` cores and a node for each of `more`, with time to start on a busy machine."""
    from ray._raylet import AuthenticationTokenLoader
    from ray.cluster_utils import Cluster

    AuthenticationTokenLoader.instance().reset_cache()  # an earlier test of this process may have used another token
    with patience(START_LIMIT):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
        try:
            for number in more:
                cluster.add_node(num_cpus=number)
        except BaseException:
            cluster.shutdown()
            raise
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head node and a second node with one core each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with started_cluster(1, 1) as cluster:
        yield cluster


def test_a_cluster_that_loses_a_node_writes_the_same_store(
    root: Path, reference: dict[str, bytes], cluster: Any
) -> None:
    extraction = Extraction(root, "cluster")
    process = extraction.start(f"compute.address={cluster.address}")
    extraction.wait_for(2, process)
    (other,) = cluster.worker_nodes
    cluster.remove_node(other, allow_graceful=False)
    assert process.poll() is None, "it ended too soon"
    assert extraction.finish(process) == reference


def test_the_wait_for_a_cluster_without_cores_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr("slowfast_core.parallel.ray_tasks.NO_CORES_SECONDS", 1.0)
    monkeypatch.setattr("slowfast_core.parallel.ray_tasks.LOOK_SECONDS", 0.5)
    with started_cluster(0) as cluster, pytest.raises(InputError, match="has had no CPU"):
        list(run_on_cluster(os.path.basename, ["a"], cluster.address))
