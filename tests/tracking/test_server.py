"""`slowfast ui` as a real process shows the workspace, and accepts runs and models over HTTP."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from test_simultaneous import check, run_rounds

from slowfast_core.recipe.load import Tracking
from slowfast_core.tracking.registry import download_version
from slowfast_core.tracking.runs import connect, open_run, points_of, read_environment, run_exists, send_unsent
from slowfast_core.tracking.unsent import all_of, described
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from flows import Flow


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, workspace: Callable[[Path], Workspace]) -> Workspace:
    return workspace(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def uri(at: Workspace) -> Iterator[str]:
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
    for _ in range(900):
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
        remote.log_points(points_of({"loss": 1.0}, 0))
        remote.log_artifact(report)
    assert open_run(tracking, at, "remote", "remote") == remote
    assert read_environment(uri, remote.id) is not None
    assert any(at.artifacts.rglob("report.html"))
    assert run_exists(at.tracking_uri, remote.id)


@pytest.mark.parametrize("experiment", ["http", "local"])  # created by the server, or by a stage on the same machine
def test_models_are_registered_over_http(
    at: Workspace, uri: str, tmp_path: Path, experiment: str, make_flow: type[Flow]
) -> None:
    open_run(Tracking(experiment="local"), at, "local", "local")
    flow = make_flow(tmp_path, Workspace(tmp_path / "elsewhere"), uri)
    recipe = flow.recipe = flow.recipe.model_copy(update={"tracking": Tracking(uri=uri, experiment=experiment)})
    result = flow.register(flow.train(experiment), flow.evaluate(experiment, 0.5), recipe)
    version = result.digest.rpartition("/")[2]
    files = download_version(f"models:/slowfast-tiny/{version}", uri, tmp_path / "got").folder / "artifacts"
    assert (files / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("rounds", "processes"),
    [(1, 3), pytest.param(10, 8, marks=[pytest.mark.exhaustive, pytest.mark.timeout(3600)])],
)
def test_the_best_becomes_champion_of_processes_that_share_only_the_server(
    uri: str, database: Path, tmp_path: Path, rounds: int, processes: int
) -> None:
    found = run_rounds(tmp_path / f"{rounds}-rounds", database, rounds, processes, uri)
    assert len(found) == rounds
    for each in found:
        check(each, processes)


def test_a_password_in_the_address_is_in_no_file(
    at: Workspace, uri: str, tmp_path: Path, make_flow: type[Flow]
) -> None:
    password = "correct-horse"
    address = uri.replace("://", f"://me:{password}@")
    flow = make_flow(tmp_path, Workspace(tmp_path / "elsewhere"), address)
    training, evaluation = flow.train("secret"), flow.evaluate("secret", 0.5)
    with open_run(flow.recipe.tracking, flow.at, "params", "params") as run:
        run.log_params(tracking=flow.recipe.tracking)
        run.log_dataset("motion", "0" * 32, f"https://me:{password}@host/videos", "training")
    flow.register(training, evaluation)
    again = make_flow(tmp_path, flow.at, uri.replace("://", "://me:another-password@"))
    assert again.register(training, evaluation).status == "unchanged"  # the password is not an input of the stage
    for folder in (at.root, tmp_path):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if password.encode() in path.read_bytes()] == []


def test_data_that_an_unreachable_server_missed_is_sent_later(
    at: Workspace, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forwarder in front of the server stops and starts again at the same address."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    here, report = Workspace(tmp_path / "elsewhere"), tmp_path / "report.html"
    report.write_text("<p>")
    with Forwarder(uri) as forwarder:
        tracking = Tracking(uri=forwarder.address, experiment="away")
        run = open_run(tracking, here, "tiny train", "away")
        run.log_points(points_of({"loss": 3.0}, 1))
    with run:
        run.rest.add({"loss": 2.0, "accuracy": 0.5}, 2)
        run.rest.add({"loss": float("nan")}, 3)
        run.rest.files.append(report)
    (line,) = described(here)
    assert line.startswith(
        f"MLflow ({forwarder.address}) did not take the end of 1 run: no answer: Connection refused; "
    )
    assert line.endswith(f"3 points are kept in {here.unsent}; the next `slowfast run` sends them")
    assert send_unsent(tracking, here) == []
    with forwarder:
        with run:
            run.rest.add({"loss": 2.0}, 4)
        (kept,) = all_of(here)
        copy = kept[0].with_name("copy")
        shutil.copytree(kept[0], copy)
        assert [unsent.name for unsent in send_unsent(tracking, here)] == ["tiny train", "tiny train"]
    assert described(here) == []
    client = connect(uri)
    points = client.get_metric_history(run.id, "loss")
    assert [(point.step, point.value) for point in points if point.step != 3] == [(1, 3.0), (2, 2.0), (4, 2.0)]
    assert len(points) == 4
    assert client.get_run(run.id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run.id)] == ["environment.json", "report.html"]


class Forwarder:
    """Forwards connections to a server inside a `with` block, always at the same address."""

    def __init__(self, uri: str) -> None:
        self.target = int(uri.rpartition(":")[2])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        forwarder, self.connections = self, list[socket.socket]()

        class Forward(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", forwarder.target)) as server:
                    forwarder.connections += [server, self.request]
                    threading.Thread(target=_copy, args=(server, self.request), daemon=True).start()
                    _copy(self.request, server)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Forward)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
