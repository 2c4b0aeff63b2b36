"""Fixtures: a tiny flow, run once by the command line, whose results several tests compare."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parent / "tiny.yaml"
Results = dict[tuple[str, str], dict[str, object]]


@pytest.fixture(scope="session")
def flow_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def flow(flow_workspace: Path) -> Results:
    """The results of both branches of the tiny recipe, by recipe and stage."""
    command = [str(Path(sys.executable).with_name("slowfast")), "run", str(TINY), "--json"]
    command += ["--workspace", str(flow_workspace)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(result["recipe"], result["stage"]): result for result in json.loads(done.stdout)}
