"""Commands continue to work in a workspace that was copied, moved or given to another user."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow_server import Server

TINY = Path(__file__).parent / "tiny.yaml"
STAGES = 12  # of both branches
OTHER_USER = 65534


def slowfast(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def predicted(at: Path, **options: object) -> list[dict[str, object]]:
    video = min((at / "data/tiny-motion/extract/store/clips").glob("*.mp4"))
    done = slowfast("predict", video, "--model", "models:/tiny@champion", "--workspace", at, "--json", **options)
    assert done.returncode == 0, done.stderr
    top: list[dict[str, object]] = json.loads(done.stdout)[0]["top"]
    return top


def versions(at: Path) -> list[str]:
    from slowfast_core.tracking.runs import connect
    from slowfast_core.workspace import Workspace

    return [f"{v.name}/{v.version}" for v in connect(Workspace(at).tracking_uri).search_model_versions()]


def artifacts_in_ui(at: Path) -> list[str]:
    """Names of a training's artifacts, by the requests of the UI; also checks that one of them can be read."""
    run = json.loads((at / "runs/tiny/train/checkpoint.json").read_text())["run_id"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from pipelines.cli.main import main; main()", "ui", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--workspace", str(at)], start_new_session=True, **quiet)
    try:
        address, limit = f"http://127.0.0.1:{port}", time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < limit
                time.sleep(0.2)
        with urllib.request.urlopen(f"{address}/ajax-api/2.0/mlflow/artifacts/list?run_id={run}") as answer:
            names = [file["path"] for file in json.load(answer)["files"]]
        with urllib.request.urlopen(f"{address}/get-artifact?path=environment.json&run_uuid={run}") as answer:
            assert "code_revision" in json.load(answer)
        return names
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original") / "workspace"
    done = slowfast("run", TINY, "--workspace", root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["cp -r", "mv"])
def test_a_copied_or_moved_workspace_works_and_the_original_is_unchanged(
    original: Path, tmp_path: Path, how: str
) -> None:
    if how == "mv":
        subprocess.run(["cp", "-r", str(original), str(tmp_path / "first")], check=True)
        slowfast("run", TINY, "--workspace", tmp_path / "first")
        source = tmp_path / "first"
    else:
        source = original
    before, predictions, target = tree(original), predicted(source), tmp_path / "another home" / "workspace"
    before = tree(original)  # a prediction may have written a compiled file
    target.parent.mkdir()
    subprocess.run([*how.split(), str(source), str(target)], check=True)
    assert predicted(target) == predictions
    again = slowfast("run", TINY, "--workspace", target)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("up to date") == STAGES, again.stderr
    assert versions(target) == ["tiny-ava/1", "tiny/1"]
    done = slowfast("run", TINY, "--workspace", target, "--set", "train.epochs=1")  # trains and registers again
    assert done.returncode == 0, done.stderr
    assert versions(target) == ["tiny-ava/2", "tiny-ava/1", "tiny/2", "tiny/1"] or len(versions(target)) == 4
    assert {"environment.json", "data"} <= set(artifacts_in_ui(target))
    assert tree(original) == before
    print(f"{how}: {len(before)} files of the original unchanged")


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_can_use_a_copy_of_the_workspace(original: Path, tmp_path: Path) -> None:
    try:
        subprocess.run([sys.executable, "-c", ""], user=OTHER_USER, group=OTHER_USER, check=True, cwd="/")
    except PermissionError:
        pytest.skip(f"another user cannot run {sys.executable}")
    home = Path("/tmp") / f"slowfast-home-{os.getpid()}"
    home.mkdir(mode=0o755)
    try:
        shutil.copytree(original, home / "workspace")
        for path in [home, *home.rglob("*")]:
            os.chown(path, OTHER_USER, OTHER_USER)
        theirs = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
        options = {"user": OTHER_USER, "group": OTHER_USER, "env": theirs, "cwd": str(home)}
        before = tree(original)
        assert predicted(home / "workspace", **options)
        for stage in ("extract", "train", "evaluate", "register"):
            done = slowfast(stage, TINY, "--workspace", home / "workspace", "--json", **options)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["status"] == "unchanged"
        assert tree(original) == before
    finally:
        shutil.rmtree(home)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_a_password_in_an_address_is_in_no_file_of_a_run(tmp_path: Path) -> None:
    folder, password = tmp_path / "server", "correct-horse"
    folder.mkdir()
    server = Server(folder)
    server.start()
    try:
        address = server.uri.replace("://", f"://me:{password}@")
        flags = ("--set", f"tracking.uri={address}", "--set", f"finetune.tracking.uri={address}")
        done = slowfast("run", TINY, "--workspace", tmp_path / "workspace", *flags)
        assert done.returncode == 0, done.stderr
        assert password not in done.stdout + done.stderr
        refused = slowfast("run", TINY, "--workspace", tmp_path / "workspace", *flags, "--set", "data.source=/nowhere")
        assert refused.returncode == 2
        server.kill()
        away = slowfast(
            "--debug", "evaluate", TINY, "--workspace", tmp_path / "workspace", *flags, "--set", "evaluate.clips=1"
        )
        assert away.returncode == 2
        assert password not in away.stdout + away.stderr
        found = [path for path in tmp_path.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
        assert found == []
    finally:
        server.kill()
