"""The whole DAG with each stage in its container gives the same models as without, and leaves no containers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from images import ROOT, docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]
TINY = ROOT / "tests/pipelines/tiny.yaml"
SLOWFAST = str(Path(sys.executable).with_name("slowfast"))
Results = dict[tuple[str, str], dict[str, str]]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [SLOWFAST, "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def by_stage(done: subprocess.CompletedProcess[str]) -> Results:
    assert done.returncode == 0, done.stderr
    return {(result["recipe"], result["stage"]): result for result in json.loads(done.stdout)}


def owned_by_a_user(folder: Path) -> Path:
    """Make an ordinary user the owner of the folder, if root runs the tests."""
    if os.geteuid() == 0:
        os.chown(folder, 1000, 1000)
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return owned_by_a_user(tmp_path_factory.mktemp("in-containers"))


@pytest.fixture(scope="module")
def contained(cpu_image: str, workspace: Path) -> Results:
    return by_stage(run(TINY, "--workspace", workspace, "--runner", "docker", "--json"))


def test_containers_give_the_same_models_as_processes(contained: Results, tmp_path: Path) -> None:
    plain = by_stage(run(TINY, "--workspace", tmp_path, "--json"))
    assert set(contained) == set(plain)
    for which, result in plain.items():
        same = ("weights_digest", "data_version", *(["metrics"] if which[1] == "evaluate" else []))
        assert {name: contained[which][name] for name in same} == {name: result[name] for name in same}, which


def test_all_files_of_the_workspace_belong_to_its_owner(contained: Results, workspace: Path) -> None:
    assert workspace.stat().st_uid != 0
    assert {path.lstat().st_uid for path in workspace.rglob("*")} == {workspace.stat().st_uid}


def test_the_lineage_names_the_image(contained: Results, workspace: Path, cpu_image: str) -> None:
    lineage = json.loads((workspace / "runs/tiny/register/lineage.json").read_text())
    (details,) = json.loads(docker("image", "inspect", cpu_image))
    assert lineage["image"] == f"{cpu_image}@{details['Id']}"
    assert lineage["code_revision"].startswith(details["Config"]["Labels"]["org.opencontainers.image.revision"])


def test_a_stopped_run_leaves_no_container(cpu_image: str, tmp_path: Path) -> None:
    command = [SLOWFAST, "run", str(TINY), "--workspace", str(owned_by_a_user(tmp_path)), "--runner", "docker"]
    of_this_run = ("ps", "--all", "--quiet", "--filter", f"volume={tmp_path}")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        while not docker(*of_this_run):
            assert running.poll() is None, running.stderr and running.stderr.read()
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 143
    assert docker(*of_this_run) == ""


def test_a_refusal_in_a_container_is_one_line(cpu_image: str, tmp_path: Path) -> None:
    workspace = owned_by_a_user(tmp_path)
    refused = run(TINY, "--workspace", workspace, "--runner", "docker", "--set", "data.source=/nowhere")
    assert refused.returncode == 2
    assert "/nowhere" in refused.stderr.strip().splitlines()[-1]
