from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slowfast_core.data.versions.track import data_version, track
from slowfast_core.errors import InputError
from slowfast_core.tracking.data_use import used_by, uses
from slowfast_core.tracking.runs import open_run
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from flows import Flow

DATA_VERSION = "0123456789abcdef0123456789abcdef.dir"  # of the trainings of the flow


def test_runs_and_models_of_a_version_are_found_and_vice_versa(flow: Flow) -> None:
    uri, other = flow.at.tracking_uri, "f" * 32 + ".dir"
    flow.register(flow.train("aaa"), flow.evaluate("aaa", 0.5, data_version=other))
    with open_run(flow.recipe.tracking, flow.at, "train tiny", "key") as run:
        run.log_dataset("motion", DATA_VERSION, "synthetic", "training")
        run.log_dataset("motion", other, "synthetic", "evaluation")
    used = uses([DATA_VERSION, other, "0" * 32 + ".dir"], uri)
    assert used[DATA_VERSION].runs == [{"id": run.id, "name": "train tiny", "context": "training"}]
    assert used[other].runs == [{"id": run.id, "name": "train tiny", "context": "evaluation"}]
    assert [use.models for use in used.values()] == [["slowfast-tiny/1"], ["slowfast-tiny/1"], []]
    assert used["0" * 32 + ".dir"].runs == []
    for which in (run.id, "models:/slowfast-tiny@champion", "models:/slowfast-tiny/1"):
        assert used_by(which, uri) == DATA_VERSION
    assert used_by("0" * 32, uri) is None
    assert used_by("0123456", uri) is None
    with pytest.raises(InputError, match="no such model"):
        used_by("models:/slowfast-tiny/7", uri)
    with open_run(flow.recipe.tracking, flow.at, "train", "another key") as silent:
        pass
    with pytest.raises(InputError, match="does not record"):
        used_by(silent.id, uri)


def test_queries_do_not_create_a_database(tmp_path: Path) -> None:
    at = Workspace(tmp_path)
    assert used_by("0" * 32, at.tracking_uri) is None
    assert uses([DATA_VERSION], at.tracking_uri)[DATA_VERSION].runs == []
    assert not list(tmp_path.iterdir())


def test_the_command_checks_out_the_data_of_a_model(
    tmp_path: Path, workspace: Callable[[Path], Workspace], make_flow: type[Flow]
) -> None:
    at = workspace(tmp_path / "workspace")
    store = at.data("motion", "extract") / "store"
    store.mkdir(parents=True)
    (store / "clip.mp4").write_bytes(b"clip")
    version = track(store, at.root / "data", at.dvc_remote)
    flow = make_flow(tmp_path, at)
    flow.register(flow.train("aaa", data_version=version), flow.evaluate("aaa", 0.5, data_version=version))
    model, to = "models:/slowfast-tiny@champion", tmp_path / "to"
    command = [str(Path(sys.executable).with_name("slowfast")), "data", "checkout", model, "--to", str(to), "--json"]
    done = subprocess.run([*command, "--workspace", str(at.root)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["data_version"] == data_version(to) == version
