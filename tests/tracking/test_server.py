"""`slowfast ui` as a real process: it shows the workspace and takes runs and models over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slowfast_core.recipe import Tracking
from slowfast_core.tracking.registry import download_version
from slowfast_core.tracking.runs import open_run, read_environment, run_exists
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from flows import Flow


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, workspace: Callable[[Path], Workspace]) -> Workspace:
    return workspace(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def uri(at: Workspace) -> Iterator[str]:
    with serving(at) as address:
        yield address


@contextmanager
def serving(at: Workspace) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from slowfast_core.tracking.ui import serve_ui; from slowfast_core.workspace import Workspace;"
    code += f"serve_ui(Workspace.at({str(at.root)!r}), port={port})"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer from {url}")


def test_local_runs_are_served(at: Workspace, uri: str) -> None:
    local = open_run(Tracking(), at, "local", "local")
    assert run_exists(uri, local.id)


def test_remote_run_is_tracked_and_continued(at: Workspace, uri: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>")
    tracking = Tracking(uri=uri, experiment="remote")
    with open_run(tracking, at, "remote", "remote") as remote:
        remote.log_metrics({"loss": 1.0}, step=0)
        remote.log_artifact(report)
    assert open_run(tracking, at, "remote", "remote") == remote
    assert read_environment(uri, remote.id) is not None
    assert any(at.artifacts.rglob("report.html"))
    assert run_exists(at.tracking_uri, remote.id)


@pytest.mark.parametrize("experiment", ["http", "local"])  # made by the server, or by a stage on the same machine
def test_models_are_registered_over_http(
    at: Workspace, uri: str, tmp_path: Path, experiment: str, make_flow: type[Flow]
) -> None:
    open_run(Tracking(experiment="local"), at, "local", "local")
    flow = make_flow(tmp_path, Workspace(tmp_path / "elsewhere"), uri)
    recipe = flow.recipe = flow.recipe.model_copy(update={"tracking": Tracking(uri=uri, experiment=experiment)})
    result = flow.register(flow.train(experiment), flow.evaluate(experiment, 0.5), recipe)
    version = result.digest.rpartition("/")[2]
    files = download_version(f"models:/slowfast-tiny/{version}", uri, tmp_path / "got") / "artifacts"
    assert (files / "model.safetensors").is_file()
