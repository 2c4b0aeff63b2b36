"""Jobs of the Jobs API if ids exist already, a proxy fails, or the following process is stopped early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs_server import JobsServer

from slowfast_core.ray_jobs.jobs_api import run_by_jobs_api
from slowfast_core.ray_jobs.stage_job import StageJob

NAME = "slowfast-train-0123456789ab"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsServer]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 2)
    with JobsServer() as it:
        yield it


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    (tmp_path / NAME).mkdir()
    return StageJob(NAME, "train", tmp_path / NAME)


def _let_jobs_succeed(server: JobsServer) -> None:
    server.on_submit = lambda submission: server.jobs.update({submission: "SUCCEEDED"})


def test_a_new_job_has_the_number_after_the_highest(server: JobsServer, job: StageJob) -> None:
    server.jobs |= {f"{NAME}-2": "FAILED", "another-7": "RUNNING", "raysubmit_abc": "SUCCEEDED"}
    _let_jobs_succeed(server)
    assert run_by_jobs_api(job, server.address) == ""
    assert server.jobs[f"{NAME}-3"] == "SUCCEEDED"


def test_a_running_job_is_followed_until_the_cluster_is_lost(server: JobsServer, job: StageJob) -> None:
    server.jobs |= {f"{NAME}-1": "FAILED", f"{NAME}-2": "RUNNING"}
    server.next_errors = [502, 503, 504]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slowfast_core.ray_jobs.jobs_api.LOST_SECONDS", 0.0)
        with pytest.raises(RuntimeError, match="502"):
            run_by_jobs_api(job, server.address)
    assert server.jobs == {f"{NAME}-1": "FAILED", f"{NAME}-2": "STOPPED"}


def test_temporary_failures_of_a_proxy_do_not_stop_a_job(server: JobsServer, job: StageJob) -> None:
    _let_jobs_succeed(server)
    server.next_errors = [502, 503]
    assert run_by_jobs_api(job, server.address) == ""
    assert server.queried == [f"{NAME}-1"] * 3


def test_a_refusal_is_not_retried(server: JobsServer, job: StageJob, capsys: pytest.CaptureFixture[str]) -> None:
    server.next_errors = [409]
    with pytest.raises(RuntimeError, match=r"\b409\b"):
        run_by_jobs_api(job, server.address)
    assert server.jobs == {f"{NAME}-1": "STOPPED"}
    server.submission_error = 400
    with pytest.raises(RuntimeError, match=r"\b400\b"):
        run_by_jobs_api(job, server.address)
    assert set(server.jobs) == {f"{NAME}-1"}
    assert "could not be stopped" not in capsys.readouterr().err


def test_a_job_submitted_during_sigterm_is_stopped(server: JobsServer, job: StageJob) -> None:
    """The cluster has accepted the job, but not answered yet: the job is stopped nevertheless."""
    follower = subprocess.Popen([sys.executable, "-c", FOLLOWER, str(job.folder), server.address], env=os.environ)

    def stop(submission: str) -> None:
        follower.send_signal(signal.SIGTERM)
        follower.wait(30)

    server.on_submit = stop
    assert follower.wait(60) == 143
    assert server.jobs == {f"{NAME}-1": "STOPPED"}


FOLLOWER = """
import sys
from pathlib import Path
from slowfast_core.ray_jobs.jobs_api import run_by_jobs_api
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.stopping import Stopped
folder = Path(sys.argv[1])
job = StageJob(folder.name, "train", folder)
try:
    with job.stopped_on_sigterm():
        run_by_jobs_api(job, sys.argv[2])
except Stopped:
    sys.exit(143)
"""
