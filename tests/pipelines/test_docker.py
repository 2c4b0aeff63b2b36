"""`--runner docker` before any container runs: refusals, and the files for the containers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.docker import _files, owner
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import load_recipe
from slowfast_core.workspace import Workspace

TINY = Path(__file__).parent / "tiny.yaml"


def test_a_workspace_of_root_is_refused() -> None:
    with pytest.raises(InputError, match="do not run as root"):
        owner(Workspace(Path("/")))


def test_docker_without_an_answer_is_reported_in_one_line_and_leaves_no_files(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 1000, 1000)
    command = [Path(sys.executable).with_name("slowfast"), "run", TINY, "--workspace", tmp_path, "--runner", "docker"]
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("slowfast: Docker does not answer: ")
    assert len(refused.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_containers_get_the_files_named_in_the_recipe_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    for name in ("videos", "labels.txt", "credentials", "workspace/start"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    changes = ["data.source=videos", f"data.labels={tmp_path}/labels.txt", f"train.init_from={workspace.root}/start"]
    recipe = load_recipe(str(TINY), changes)
    variables = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_SESSION_TOKEN": "x" * 1000}
    named = {tmp_path / name for name in ("videos", "labels.txt", "credentials")}
    assert set(_files(recipe, variables, workspace)) == named
