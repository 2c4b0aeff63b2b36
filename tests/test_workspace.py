"""Names in recipes, records and the environment cannot lead outside the workspace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slowfast_core.data.versions.catalogue import Version
from slowfast_core.errors import InputError
from slowfast_core.once import read_result, run_once
from slowfast_core.recipe.load import parse_recipe
from slowfast_core.workspace import Workspace

DATA = {"name": "motion"}
OUTSIDE = ["a/../../../victim", "../../victim", "/victim", "a//b", "a/./b", "a/", ".a", "a/.b", "", "a\n", "a\0", "ä"]


@pytest.mark.parametrize("name", [*OUTSIDE, "x" * 101, "a/" + "x" * 101, "demo/train", "demo/evaluate/x"])
def test_recipe_names_that_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"name: .*(is not a valid folder name|inside the results of another)"):
        parse_recipe({"name": name, "data": DATA})
    ava = {"data": {"name": "actors", "format": "ava"}, "model": {"head": "detect"}}
    with pytest.raises(InputError, match=r"finetune\.name: "):
        parse_recipe({"name": "fine", "data": DATA, "finetune": {**ava, "name": name}})


@pytest.mark.parametrize("name", [*OUTSIDE, "a/b", "x" * 101])
def test_names_of_data_sets_models_and_versions_are_single_folder_names(name: str) -> None:
    with pytest.raises(InputError, match=r"data\.name: "):
        parse_recipe({"name": "fine", "data": {"name": name}})
    with pytest.raises(InputError, match=r"register\.model: "):
        parse_recipe({"name": "fine", "data": DATA, "register": {"model": name}})
    with pytest.raises(ValueError, match="data"):
        Version(hash="0" * 32 + ".dir", data=name, created="", files=1, bytes=1)


def test_valid_names_are_accepted() -> None:
    for name in ("demo", "kinetics400/slowfast_8x8_r50", "a.b-c_d/1/x" * 3, "train", "train/one", "x" * 100):
        assert parse_recipe({"name": name, "data": DATA}).name == name


def test_the_command_reports_an_invalid_name(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("slowfast")), "ingest", "demo", "--workspace", str(tmp_path / "w")]
    done = subprocess.run([*command, "--set", "name=a/../../../victim"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "name: '..' is not a valid folder name" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_stage_never_replaces_a_folder_outside_the_workspace(tmp_path: Path) -> None:
    at, victim = Workspace(tmp_path / "deep" / "workspace"), tmp_path / "victim" / "train"
    victim.mkdir(parents=True)
    (victim / "thesis.txt").write_text("years of work")
    (at.root / "runs" / "a").mkdir(parents=True)
    for name in ("a/../../../../victim", str(victim.parent)):
        with pytest.raises(InputError, match="a path leaves the workspace"):
            run_once("train", at.run(name, "train"), {}, lambda _: {})
    with pytest.raises(InputError, match="a path leaves the workspace"):
        at.data("../runs", "ingest")  # another stage's folder of the same workspace
    assert (victim / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("link", ["runs", "runs/demo", "runs/demo/train"])
def test_a_symbolic_link_out_of_the_workspace_is_not_followed(tmp_path: Path, link: str) -> None:
    """Otherwise a copy of the workspace would write into the original."""
    at, elsewhere = Workspace(tmp_path / "workspace"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (at.root / link).parent.mkdir(parents=True)
    (at.root / link).symlink_to(elsewhere)
    with pytest.raises(InputError, match="a path leaves the workspace"):
        at.run("demo", "train")


def test_every_folder_of_a_workspace_is_checked(tmp_path: Path) -> None:
    at = Workspace(tmp_path / "workspace")
    at.root.mkdir()
    for name in ("sources", "data", "runs", "dvc-remote", "mlflow.db", "mlartifacts"):
        (at.root / name).symlink_to(tmp_path)
    for get_folder in (
        lambda: at.source("x"),
        lambda: at.data("x", "ingest"),
        lambda: at.run("x", "train"),
        lambda: at.dvc_remote,
        lambda: at.tracking_uri,
        lambda: at.artifacts,
    ):
        with pytest.raises(InputError, match="a path leaves the workspace"):
            get_folder()


def test_the_workspace_itself_may_be_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "workspace").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path)
    assert Workspace.at().run("demo", "train") == tmp_path / "disk" / "runs" / "demo" / "train"
    assert Workspace(tmp_path / "workspace").run("demo", "train").name == "train"


def test_a_stage_record_may_only_name_files_in_its_folder(tmp_path: Path) -> None:
    """A record may come from a remote, and its paths are passed to later stages."""
    run_once("extract", tmp_path / "extract", {}, lambda _: {})
    record = json.loads((tmp_path / "extract" / "stage.json").read_text())
    (tmp_path / "extract" / "stage.json").write_text(json.dumps(record | {"outputs": {"store": "../../etc/passwd"}}))
    with pytest.raises(InputError, match="leaves the data root"):
        read_result(tmp_path / "extract")
