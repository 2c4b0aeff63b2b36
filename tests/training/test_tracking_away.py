"""Trainings that track to a real MLflow server process, which is killed with SIGKILL."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_server import Server
from trainings import Training, lines_of

from slowfast_core.tracking.runs import connect
from slowfast_core.workspace import Workspace

SOON = 60.0  # seconds; without a limit, the command waited for more than 8 minutes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    server.start()
    yield server
    server.kill()


def slowfast(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def history(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    client = connect(uri)
    metrics = client.get_run(run_id).data.metrics
    return {name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)] for name in metrics}


def expected(log: Path) -> dict[str, list[tuple[int, float]]]:
    points: dict[str, list[tuple[int, float]]] = {}
    for line in lines_of(log):
        for name in line.keys() - {"step", "time", "note"}:
            points.setdefault(name, []).append((line["step"], line[name]))
    return points


def assert_refused(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("slowfast: MLflow cannot be used: no answer: Connection refused")


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_training_succeeds_and_its_metrics_are_sent_later(
    server: Server, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    password = "correct-horse"
    at = tiny_workspace(tmp_path / "workspace")
    address = server.uri.replace("://", f"://me:{password}@")
    training = Training(tiny_recipe, at, (f"tracking.uri={address}", "train.epochs=30"))
    try:
        training.start()
        training.wait_for_epoch(2)
        server.kill()
        training.wait_for_epoch(30)
        since = time.monotonic()
        _, errors = training.processes[-1].communicate(timeout=SOON)
        assert training.processes[-1].returncode == 0, errors
        assert time.monotonic() - since < SOON
        messages = [line for line in errors.splitlines() if "MLflow" in line]
        assert len(messages) == 1, errors
        assert f"MLflow ({server.uri}) did not take the end of 1 run" in messages[0]
        assert "Connection refused" in messages[0]
        assert "the next `slowfast run` sends them" in messages[0]
    finally:
        training.kill()

    flags = (tiny_recipe, "--workspace", at.root, "--set", f"tracking.uri={address}", "--set", "train.epochs=30")
    assert_refused(slowfast("evaluate", *flags))

    server.start()
    sent = slowfast("train", *flags)
    assert sent.returncode == 0, sent.stderr
    assert "nothing to do" in sent.stdout or "up to date" in sent.stdout
    assert "delayed points of tiny train to MLflow" in sent.stderr
    assert list(at.unsent.glob("*/*")) == []
    client = connect(server.uri)
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "slowfast"]
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert history(server.uri, run.info.run_id) == expected(training.folder / "log.jsonl")
    assert expected(training.folder / "log.jsonl")["loss"][-1][0] == 30 * 4
    again = slowfast("train", *flags)
    assert "MLflow" not in again.stderr

    evaluated = slowfast("evaluate", *flags)
    assert evaluated.returncode == 0, evaluated.stderr
    server.kill()
    assert_refused(slowfast("register", *flags))  # and does not report an incomplete lineage
    server.start()
    registered = slowfast("register", *flags)
    assert registered.returncode == 0, registered.stderr
    for folder in (at.root, server.folder):
        for path in folder.rglob("*"):
            assert not path.is_file() or password.encode() not in path.read_bytes(), path


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_work_while_mlflow_does_not_answer(
    server: Server, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path, number: int
) -> None:
    at = tiny_workspace(tmp_path / "workspace")
    training = Training(tiny_recipe, at, (f"tracking.uri={server.uri}", "train.epochs=500"))
    try:
        training.start()
        training.wait_for_epoch(2)
        server.kill()
        time.sleep(20)  # MLflow's client waits between two attempts
        since = time.monotonic()
        training.processes[-1].send_signal(number)
        _, errors = training.processes[-1].communicate(timeout=SOON)
        assert time.monotonic() - since < 30, errors
        assert training.processes[-1].returncode != 0
        assert "MLflow" in errors
    finally:
        training.kill()


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_a_training_resumes_while_mlflow_does_not_answer(
    server: Server, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at = tiny_workspace(tmp_path / "workspace")
    training = Training(tiny_recipe, at, (f"tracking.uri={server.uri}",))
    try:
        training.start()
        training.wait_for_checkpoints(2)
        training.kill()
        server.kill()
        training.start()
        result = training.finish()
        assert "MLflow was not available when the training resumed" in result["summary"]
    finally:
        training.kill()
    server.start()
    assert (
        slowfast("train", tiny_recipe, "--workspace", at.root, *("--set", f"tracking.uri={server.uri}")).returncode == 0
    )
    client = connect(server.uri)
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "slowfast"]
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    measured = {name: set(points) for name, points in expected(training.folder / "log.jsonl").items()}
    assert {name: set(points) for name, points in history(server.uri, run.info.run_id).items()} == measured


@pytest.mark.exhaustive
def test_a_new_training_is_refused_if_mlflow_does_not_answer(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at = tiny_workspace(tmp_path / "workspace")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    since = time.monotonic()
    refused = slowfast("train", tiny_recipe, "--workspace", at.root, "--set", f"tracking.uri={uri}")
    assert time.monotonic() - since < SOON
    assert_refused(refused)
