"""dvc.yaml matches the stages: DVC runs a stage again exactly when an input of its results changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from stage_code import ROOT

from slowfast_core.once import run_once
from slowfast_core.recipe.load import Data, Recipe, load_recipe
from slowfast_core.stage import STAGES as FLOW
from slowfast_core.stages import evaluate
from slowfast_core.stages import extract as extraction
from slowfast_core.stages import register as registration
from slowfast_core.stages import train as launch
from slowfast_core.stages import validate as validation

BIN = Path(sys.executable).parent
VERSIONS = "slowfast_core/stage_versions.yaml"
STAGES = [stage.name for stage in FLOW]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
DVC: dict[str, Any] = FILE["stages"]
# Not inputs of ingest: how it copies, what later stages do, and where they write.
NOT_INGESTED = {"requester_pays", "fetch_workers", "validation", "store", "remote", "remote_endpoint_url"}
# The stage depends on the digest of the start weights; DVC can depend only on their name.
NAMED = {"train.init_from"}


def params(stage: str) -> set[str]:
    return {entry for entry in DVC[stage]["params"] if isinstance(entry, str)}


def test_dvc_has_the_stages_of_both_branches() -> None:
    assert list(DVC) == [*STAGES, *(f"finetune_{stage}" for stage in STAGES)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_code_version_and_not_on_source_files(stage: str) -> None:
    for name in (stage, f"finetune_{stage}"):
        of_files = [entry for entry in DVC[name]["params"] if isinstance(entry, dict)]
        assert of_files == [{VERSIONS: [stage]}]
        of_code = [Path(ROOT, path) for path in DVC[name].get("deps", ()) if path.startswith("slowfast_core")]
        assert not [path for path in of_code if path.suffix == ".py" or list(path.rglob("*.py"))]


@pytest.mark.parametrize("stage", STAGES)
def test_stages_of_the_fine_tuning_have_the_same_parameters(stage: str) -> None:
    assert params(f"finetune_{stage}") == {f"finetune.{name}" for name in params(stage)}


def test_dvc_keeps_every_output_in_the_workspace_of_the_command() -> None:
    for stage in DVC.values():
        [(path, options)] = stage["outs"][0].items()
        assert path.startswith("${to}/")
        assert options["persist"]
    assert FILE["vars"] == [{"to": "workspace"}]


def test_ingest_depends_on_the_fields_it_reads() -> None:
    assert params("ingest") == {f"data.{name}" for name in set(Data.model_fields) - NOT_INGESTED}


@pytest.fixture(scope="module")
def inputs_of(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Callable[[Recipe], dict[str, Any]]]:
    """For each stage, a function from a recipe to the inputs that the stage declares."""
    root = tmp_path_factory.mktemp("stages")
    for stage in ("validate", "extract", "ingest", "train", "evaluate"):
        run_once(stage, root / stage, {}, lambda _: {"digest": "d", "data_version": "v", "weights_digest": "w"})
    (root / "train" / "checkpoint.json").write_text("{}")
    for name in ("run.json", "metrics.json"):
        (root / "evaluate" / name).write_text("{}")
    return {
        "validate": lambda recipe: validation.validate_inputs(recipe.data, root / "ingest"),
        "extract": lambda recipe: extraction.extract_inputs(recipe.data, recipe.clip, root / "validate"),
        "train": lambda recipe: launch.train_inputs(recipe, root / "extract", None),
        "evaluate": lambda recipe: evaluate.evaluate_inputs(recipe, "v", "w"),
        "register": lambda recipe: registration.register_inputs(recipe, root / "train", root / "evaluate", "uri"),
    }


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("stage", STAGES[1:])
def test_dvc_parameters_match_the_declared_inputs(
    stage: str, inputs_of: Mapping[str, Callable[[Recipe], dict[str, Any]]]
) -> None:
    """Changes every field of both kinds of recipes and checks whether the declared inputs change."""
    decisive, fields = set(), set()
    for name in ("demo", "demo_ava"):
        for final in ("last", "best"):
            recipe = load_recipe(name, [f"train.final={final}", "train.validate_every=1"])
            recipe = recipe.model_copy(update={"finetune": None})
            before = inputs_of[stage](recipe)
            for field, changed in variants(recipe):
                fields.add(field)
                if inputs_of[stage](changed) != before:
                    decisive.add(field)
    listed = {field for field in fields for name in params(stage) if f"{field}.".startswith(f"{name}.")}
    assert len(fields) > 100
    assert decisive <= listed
    assert listed <= decisive | NAMED


def variants(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield, for each field, its key and the section with another, possibly invalid, value for it."""
    for name, info in type(section).model_fields.items():
        value, field = getattr(section, name), prefix + (info.alias or name)
        if name == "finetune":
            continue
        if isinstance(value, BaseModel):
            for below, changed in variants(value, f"{field}."):
                yield below, section.model_copy(update={name: changed})
        else:
            other = value + 1 if isinstance(value, int | float) and not isinstance(value, bool) else f"not {value}"
            if field == "data.format":
                other = "list"  # stages ask the format for its properties, so that it must exist
            yield field, section.model_copy(update={name: other})


@pytest.mark.exhaustive
def test_dvc_detects_a_new_version_and_ignores_a_comment(tmp_path: Path) -> None:
    """Runs DVC itself on folders that represent the results of the stages."""
    for name in ("slowfast_core", ".dvc"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for data, run in (("motion", "demo"), ("actors", "demo_ava")):
        for stage in STAGES:
            folder = tmp_path / "workspace" / (f"data/{data}" if stage in STAGES[:3] else f"runs/{run}") / stage
            (folder / "store").mkdir(parents=True)
            for file in ("manifest.parquet", "model.safetensors", "store/clip.mp4"):
                (folder / file).write_text(stage)

    def changed() -> set[str]:
        return set(json.loads(dvc("status", "--json", cwd=tmp_path)))

    dvc("commit", "--force", cwd=tmp_path)
    assert changed() == set()
    for module in ("data/video/decoding.py", "training/loop.py"):
        with (tmp_path / "slowfast_core" / module).open("a") as file:
            file.write("# a comment\n")
    assert changed() == set()
    versions = yaml.safe_load((tmp_path / VERSIONS).read_text())
    (tmp_path / VERSIONS).write_text(yaml.safe_dump({**versions, "extract": versions["extract"] + 1}))
    assert changed() == {"extract", "finetune_extract"}
    (tmp_path / "workspace/data/motion/extract/stage.json").write_text("done again, with the same clips")
    assert "train" not in changed()
    (tmp_path / "workspace/data/motion/extract/store/clip.mp4").write_text("other clips")
    assert {"train", "evaluate"} <= changed()


@pytest.mark.exhaustive
def test_dvc_and_the_command_share_results(tmp_path: Path) -> None:
    recipe = str(ROOT / "tests/pipelines/tiny.yaml")
    for name in ("slowfast_core", ".dvc"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    slowfast("run", recipe, cwd=tmp_path)
    (tmp_path / "params.yaml").write_text(slowfast("show", recipe, cwd=tmp_path).stdout)
    printed = dvc("repro", cwd=tmp_path)
    assert len(re.findall(r"^\w+: up to date", printed, flags=re.MULTILINE)) == 12
    metrics = json.loads(dvc("metrics", "show", "--json", cwd=tmp_path))[""]["data"]
    measured = {path: set(file["data"]) for path, file in metrics.items()}
    assert {"top1", "top5"} <= measured["workspace/runs/tiny/evaluate/metrics.json"]
    assert "mAP" in measured["workspace/runs/tiny_ava/evaluate/metrics.json"]
    dvc("plots", "show", cwd=tmp_path)
    plots = (tmp_path / "dvc_plots/index.html").read_text()
    assert "val_loss" in plots
    assert dvc("repro", cwd=tmp_path).count("didn't change, skipping") == 12
    assert slowfast("run", recipe, cwd=tmp_path).stderr.count("up to date") == 12


def slowfast(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "slowfast"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)


def dvc(*arguments: str, cwd: Path) -> str:
    command = [str(BIN / "dvc"), *arguments]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}  # the stages run `slowfast`
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
