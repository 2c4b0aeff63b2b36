"""A full disk during registration is reported in one line, leaves no partial version, and the next call resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import fill
from flows import Flow

from slowfast_core.errors import InputError
from slowfast_core.ray_jobs.dispatch import run_stage
from slowfast_core.tracking.runs import connect
from slowfast_core.workspace import Workspace


def test_a_full_disk_in_register_is_reported(
    small_disk: Path, tmp_path: Path, workspace: Callable[[Path], Workspace]
) -> None:
    """For any write that fails: in SQLite, in the artifacts or in the stage's own files."""
    flow = Flow(tmp_path, workspace(small_disk / "w"))
    for made, stage in ((flow.train("weights"), "train"), (flow.evaluate("weights", 0.9), "evaluate")):
        shutil.copytree(made, flow.at.run("tiny", stage))
    for leave_kb in (0, 8, 100, 400):
        filler = fill(small_disk, leave_kb)
        with pytest.raises(InputError) as caught:
            run_stage("register", flow.recipe, flow.at)
        line = str(caught.value)
        assert line.startswith(f"no space left on the disk ({small_disk}"), line
        assert "free disk space" in line
        assert "\n" not in line
        filler.unlink()
    assert run_stage("register", flow.recipe, flow.at).summary.startswith("slowfast-tiny v")
    (version,) = connect(flow.at.tracking_uri).search_model_versions("name = 'slowfast-tiny'")
    assert version.tags["weights_digest"]
