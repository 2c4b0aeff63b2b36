"""Contents and user of the images, and the layers that a change of the code rebuilds."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from images import ROOT, docker, pins

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]
CODE = (
    "LICENSE",
    "README.md",
    "components",
    "infra/images/*.lock",
    "pipelines",
    "pyproject.toml",
    "recipes",
    "setup.py",
    "slowfast_core",
)
SOURCE = "/opt/slowfast/src"


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "--", *CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module", params=["slowfast-python:dev", "slowfast-python-gpu:dev"])
def image(request: pytest.FixtureRequest, cpu_image: str) -> str:
    if not docker("images", "--quiet", request.param):
        pytest.skip(f"{request.param} has not been built (`make image-gpu`)")
    return str(request.param)


def test_the_doctor_runs_as_a_user_on_a_read_only_system(image: str) -> None:
    contained = ("run", "--rm", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--network=none", image)
    found = json.loads(docker(*contained, "slowfast", "doctor", "--json"))
    assert "missing" not in {found[name] for name in ("slowfast", "torch", "ray", "kfp", "mlflow", "dvc", "decord")}
    assert ("+cpu" in found["torch"]) != ("gpu" in image)
    assert docker(*contained, "id", "-u").strip() == "10001"


def test_images_have_labels_a_health_check_and_a_user(image: str) -> None:
    (details,) = json.loads(docker("image", "inspect", image))
    labels = details["Config"]["Labels"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    if "gpu" not in image:  # built by this test run
        assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == head.stdout.strip()
    assert {f"org.opencontainers.image.{name}" for name in ("title", "version", "revision", "created")} <= set(labels)
    assert details["Config"]["Healthcheck"]["Test"] == ["CMD", "slowfast", "doctor"]
    assert details["Config"]["User"] == "10001:10001"


def test_the_bill_of_materials_lists_the_installed_packages(image: str) -> None:
    bill = json.loads(docker("run", "--rm", image, "cat", "/opt/slowfast/sbom.json"))
    listed = {part["name"].lower().replace("_", "-"): part["version"] for part in bill["components"]}
    pinned = pins("gpu" if "gpu" in image else "cpu")
    assert {name: listed.get(name, listed.get(name.replace("-", "."))) for name in pinned} == pinned
    assert "torch" in listed


def test_a_change_of_the_code_rebuilds_only_its_layers_and_copies_no_secrets(cpu_image: str, tmp_path: Path) -> None:
    for name in tracked():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / ".dockerignore", tmp_path / ".dockerignore")
    shutil.copyfile(ROOT / "infra/images/Dockerfile.cpu", tmp_path / "Dockerfile")
    with (tmp_path / "slowfast_core/errors.py").open("a") as file:
        file.write("# changed\n")
    for secret in (".env", ".aws/credentials", "slowfast_core/.env", "key.pem", "workspace/mlflow.db"):
        (tmp_path / secret).parent.mkdir(exist_ok=True)
        (tmp_path / secret).write_text("secret")
    given = {name: os.environ.get(f"SLOWFAST_{name}") for name in ("BASE_IMAGE", "TORCH_INDEX")}
    arguments = [f"--build-arg={name}={value}" for name, value in given.items() if value]
    changed = docker("build", "--quiet", *arguments, tmp_path).strip()
    try:
        before, after = (json.loads(docker("image", "inspect", name))[0] for name in (cpu_image, changed))
        new = set(after["RootFS"]["Layers"]) - set(before["RootFS"]["Layers"])
        assert len(new) == 2  # the code, and its installation
        find = f"find {SOURCE} -type f -not -path '*/__pycache__/*' -printf '%P\\n'"
        copied = docker("run", "--rm", changed, "sh", "-c", find).splitlines()
        assert sorted(copied) == sorted(tracked())
    finally:
        docker("rmi", changed)
