"""Stages as jobs of an existing Ray cluster with a token: on one node, and on three, one of which is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kubernetes_api import KubernetesApi
from nodes import Node, cluster_of, free_port
from trainings import Training, command_of, descendants

from slowfast_core.errors import InputError
from slowfast_core.ray_jobs.jobs_api import connect
from slowfast_core.ray_jobs.rayjob_settings import VARIABLE
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.recipe.load import load_recipe
from slowfast_core.workspace import Workspace

TOKEN = "0123456789abcdef" * 2
STOPPED_WITHIN = 10.0  # seconds


@dataclass
class RayCluster:
    """A running cluster with a dashboard, which provides the Jobs API at `address`."""

    address: str
    nodes: list[Node]

    def processes(self, *kinds: bytes) -> list[int]:
        below = [pid for node in self.nodes for pid in descendants(node.process.pid)]
        return [pid for pid in below if any(kind in command_of(pid) for kind in kinds)]


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


def _start_cluster(count: int) -> Iterator[RayCluster]:
    port = free_port()
    with cluster_of(count, "--include-dashboard=true", f"--dashboard-port={port}") as (_, nodes):
        limit = time.monotonic() + 120
        while not _answers(port):  # the dashboard may start after its node
            assert time.monotonic() < limit
            time.sleep(0.2)
        yield RayCluster(f"http://127.0.0.1:{port}", nodes)


@pytest.fixture(scope="module")
def one_node(_environment: None) -> Iterator[RayCluster]:
    yield from _start_cluster(1)


@pytest.fixture
def three_nodes(_environment: None) -> Iterator[RayCluster]:
    yield from _start_cluster(3)


def _run(stage: str, recipe: Path, at: Workspace, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.cli.main import main; main()", stage, str(recipe), "--json"]
    command += ["--workspace", str(at.root), *(word for text in overrides for word in ("--set", text))]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def _on(cluster: RayCluster) -> tuple[str, str]:
    return "compute.run_on=jobs", f"compute.jobs_address={cluster.address}"


@pytest.fixture
def at(tiny_workspace: Callable[[Path], Workspace], tmp_path: Path) -> Workspace:
    return tiny_workspace(tmp_path / "at")


def test_a_stage_runs_as_a_job(one_node: RayCluster, tiny_recipe: Path, at: Workspace) -> None:
    """An extraction that is not up to date."""
    ran = _run("extract", tiny_recipe, at, *_on(one_node), "data.store.every=2")
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert (result["stage"], result["status"]) == ("extract", "done")
    assert "slowfast-extract-" in ran.stderr
    again = _run("extract", tiny_recipe, at, "data.store.every=2")
    assert json.loads(again.stdout) == result | {"status": "unchanged", "seconds": 0.0, "reason": ""}
    assert list((at.root / "jobs").iterdir()) == []


def test_a_refusal_in_a_job_is_raised_again(tiny_recipe: Path, at: Workspace) -> None:
    """Runs the entrypoint of the job without a cluster."""
    job = StageJob.write("train", load_recipe(str(tiny_recipe), ["train.batch=800"]), at)
    ran = subprocess.run([sys.executable, *job.entrypoint.split()[1:]], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 2, ran.stderr
    with pytest.raises(InputError, match=r"^32 training samples"):
        job.result("failed: exit code 2")


def test_another_token_is_refused(
    one_node: RayCluster, tiny_recipe: Path, at: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN[::-1])
    refused = _run("train", tiny_recipe, at, *_on(one_node))
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("slowfast: no Ray Jobs API")
    assert refused.stderr.count("\n") == 1


def test_a_missing_jobs_api_is_reported() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=rf"no Ray Jobs API: .* \({address}\)") as caught:
        connect(address)
    assert "\n" not in str(caught.value)


@pytest.mark.exhaustive
def test_a_stage_runs_as_a_rayjob(
    one_node: RayCluster, tiny_recipe: Path, at: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The test plays KubeRay: it submits the entrypoint to a cluster and reports the status of the job."""
    from ray.job_submission import JobSubmissionClient

    def operate(api: KubernetesApi, name: str) -> None:
        client, spec = JobSubmissionClient(one_node.address), api.jobs[name]["spec"]
        environment = json.loads(spec["runtimeEnvYAML"])
        fields = {"jobId": client.submit_job(entrypoint=spec["entrypoint"], runtime_env=environment)}
        fields["dashboardURL"] = one_node.address.removeprefix("http://")
        while not (status := client.get_job_status(fields["jobId"])).is_terminal():
            api.set_status(name, jobDeploymentStatus="Running", jobStatus=status.value, **fields)
            time.sleep(0.2)
        ended = "Complete" if status == "SUCCEEDED" else "Failed"
        api.set_status(name, jobDeploymentStatus=ended, jobStatus=status.value, **fields)

    with KubernetesApi(on_create=operate) as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.setenv(VARIABLE, json.dumps({"image": "registry.example/slowfast:1"}))
        ran = _run("extract", tiny_recipe, at, "compute.run_on=rayjob", "data.store.every=2")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["status"] == "done"
    assert api.jobs == {}


@pytest.mark.exhaustive
def test_a_job_resumes_after_the_loss_of_a_node_and_of_its_client(
    three_nodes: RayCluster, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    """The first process that follows the job is killed; the next one finds the running job."""
    plain = Training(tiny_recipe, tiny_workspace(tmp_path / "plain"))
    settings = ("train.checkpoint_steps=2", "train.max_restarts=4", *_on(three_nodes))
    interrupted = Training(tiny_recipe, tiny_workspace(tmp_path / "interrupted"), settings)
    try:
        interrupted.start()
        interrupted.wait_for_epoch(2)
        interrupted.kill_driver()
        interrupted.start()
        interrupted.wait_for_epoch(4)
        next(node for node in three_nodes.nodes[1:] if node.workers()).kill()
        result = interrupted.finish()
        plain.start()
        expected = plain.finish()
    finally:
        for training in (plain, interrupted):
            training.kill()
    assert result["weights_digest"] == expected["weights_digest"]
    assert result["status"] == "done"
    assert result["summary"].count("resumed from checkpoint") == 1


@pytest.mark.exhaustive
def test_a_cancelled_job_stops_its_workers(three_nodes: RayCluster, tiny_recipe: Path, at: Workspace) -> None:
    from ray.job_submission import JobSubmissionClient

    training = Training(tiny_recipe, at, ("train.epochs=2000", *_on(three_nodes)))
    try:
        training.start()
        training.wait_for_epoch(2)
        (job,) = JobSubmissionClient(three_nodes.address).list_jobs()
        assert job.status == "RUNNING"
        assert three_nodes.processes(b"RayTrainWorker")
        since = time.monotonic()
        training.terminate()
        while three_nodes.processes(b"RayTrainWorker", b"job_main"):
            assert time.monotonic() - since < STOPPED_WITHIN
            time.sleep(0.05)
        seconds = time.monotonic() - since
    finally:
        training.kill()
    assert JobSubmissionClient(three_nodes.address).get_job_status(job.submission_id) == "STOPPED"
    assert seconds < STOPPED_WITHIN
    print(f"stopped, with nothing left running, within {seconds:.1f} s")
