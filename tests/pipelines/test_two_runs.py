"""Two runs in one workspace at once: each ends with its own data and model, or is refused with one line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.run_stage import run_stage as run_component
from slowfast_core.errors import InputError
from slowfast_core.once import in_use, read_result
from slowfast_core.ray_jobs.dispatch import run_stage
from slowfast_core.recipe.load import load_recipe
from slowfast_core.workspace import Workspace

TINY = Path(__file__).parent / "tiny.yaml"
REFUSALS = (
    "another process is working on this stage, or reads its result",
    "another process is writing what this stage reads",
    "another run replaced the result",
)
WAITING_READER = """
import sys, time
from pathlib import Path
from slowfast_core.once import in_use
with in_use([Path(sys.argv[1])]):
    print("reading", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def at(tmp_path: Path, tiny_workspace: Callable[[Path], Workspace]) -> Workspace:
    return tiny_workspace(tmp_path / "workspace")


def test_a_result_is_not_replaced_while_another_process_reads_it(at: Workspace, tiny_recipe: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), ["data.store.crf=30"])
    store = at.data(recipe.data.name, "extract")
    before = read_result(store)
    reader = subprocess.Popen([sys.executable, "-c", WAITING_READER, str(store)], stdout=subprocess.PIPE, text=True)
    assert reader.stdout
    assert reader.stdout.readline() == "reading\n"
    try:
        with in_use([store]):  # results may be read by several processes
            pass
        with pytest.raises(InputError, match=REFUSALS[0]):
            run_stage("extract", recipe, at)
        assert read_result(store).data_version == before.data_version
    finally:
        reader.kill()
        reader.wait()
    assert run_stage("extract", recipe, at).data_version != before.data_version


def test_a_component_refuses_another_result_than_the_one_it_was_given(
    at: Workspace, tiny_recipe: Path, tmp_path: Path
) -> None:
    first = load_recipe(str(tiny_recipe))
    second = load_recipe(str(tiny_recipe), ["data.store.crf=30"])
    store = at.data(first.data.name, "extract")
    clips = _artifact(tmp_path / "clips", folder=str(store), digest=read_result(store).digest)
    run_stage("extract", second, at)
    with pytest.raises(SystemExit, match=rf"slowfast train: {REFUSALS[2]} .*; start this run again"):
        run_component("train", first.to_json(), str(at.root), _artifact(tmp_path / "model"), "weights", [clips])
    assert not at.run(first.name, "train").exists()


def test_a_component_refuses_the_artifact_of_another_workspace(
    at: Workspace, tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(tiny_recipe))
    elsewhere = Workspace(tmp_path / "elsewhere").data(recipe.data.name, "extract")
    digest = read_result(at.data(recipe.data.name, "extract")).digest
    clips = _artifact(tmp_path / "clips", folder=str(elsewhere), digest=digest)
    with pytest.raises(SystemExit, match="train reads other folders than the one it was given"):
        run_component("train", recipe.to_json(), str(at.root), _artifact(tmp_path / "model"), "weights", [clips])


def _artifact(path: Path, **metadata: str) -> Any:
    return SimpleNamespace(path=str(path), metadata=metadata)


@pytest.mark.exhaustive
@pytest.mark.parametrize("trial", range(20))
def test_two_runs_at_once_are_never_mixed(trial: int, tmp_path: Path) -> None:
    """Even trials run one recipe twice; odd ones run two recipes that share a data set and store it differently."""
    delays = random.Random(trial)
    other = () if trial % 2 == 0 else ("--set", "name=other", "--set", "data.store.crf=30")
    processes = []
    for changes in ((), other):
        command = [Path(sys.executable).with_name("slowfast"), "run", TINY, "--set", "finetune=null", *changes]
        environment = {**os.environ, "SLOWFAST_WORKSPACE": str(tmp_path / "workspace")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([str(part) for part in command], env=environment, **pipes))
        time.sleep(delays.uniform(0, 12))
    ends = [(process.communicate(timeout=300), process.returncode) for process in processes]
    assert 0 in [code for _, code in ends]
    for (name, changes), ((_, stderr), code) in zip(
        (("tiny", ()), ("other" if other else "tiny", other)), ends, strict=True
    ):
        if code:
            assert any(refusal in stderr for refusal in REFUSALS), stderr
            assert "Traceback" not in stderr
            continue
        runs = tmp_path / "workspace" / "runs" / name
        trained = json.loads((runs / "train" / "checkpoint.json").read_text())
        assert trained["data"]["store"]["crf"] == (30 if changes else 18)
        recorded = [json.loads((runs / stage / "stage.json").read_text()) for stage in ("train", "evaluate")]
        assert {each["data_version"] for each in recorded} == {trained["data_version"]}
        lineage = json.loads((runs / "register" / "lineage.json").read_text())
        assert lineage["data_version"] == trained["data_version"]
