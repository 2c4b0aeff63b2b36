"""The pins of the images and of `make setup` fit pyproject.toml, and each has its checksums."""

import re
import subprocess
import tomllib

import pytest
from images import IMAGES, PIN, ROOT, lock, pins
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

KINDS = ("cpu", "gpu", "dev")


def requirements(kind: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = ["dev"] if kind == "dev" else ["cluster", "detector"]
    extras = [line for extra in chosen for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_a_pin_with_checksums(kind: str) -> None:
    assert PIN.sub("", lock(kind).read_text()) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_the_pins_satisfy_the_requirements_of_the_project(kind: str) -> None:
    pinned = pins(kind)
    if kind == "cpu":
        (pinned["torch"],) = re.findall(r"torch==(\S+)$", (IMAGES / "Dockerfile.cpu").read_text(), flags=re.M)
    if kind == "dev":  # the Makefile takes torch from pyproject.toml
        (pinned["torch"],) = re.findall(r'"torch==([^"]*)"', (ROOT / "pyproject.toml").read_text())
    wrong = [str(r) for r in requirements(kind) if pinned.get(canonicalize_name(r.name), "none") not in r.specifier]
    assert wrong == []


def test_the_images_differ_only_in_torch_and_cuda() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    more = {name for name in gpu if name not in cpu}
    assert {name: gpu[name] for name in cpu} == cpu
    assert {name.split("-")[0] for name in more} == {"torch", "triton", "cuda", "nvidia"}


def test_tests_run_with_the_versions_of_the_images() -> None:
    dev, gpu = pins("dev"), pins("gpu")
    assert {name: dev[name] for name in dev if name in gpu} == {name: gpu[name] for name in dev if name in gpu}
    assert not [name for name in dev if name.split("-")[0] in ("torch", "triton", "cuda", "nvidia")]


def test_a_changed_lock_is_installed_again_with_its_checksums() -> None:
    command = ["make", "--dry-run", "--what-if=dev.lock", "setup"]
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (install,) = (line for line in planned.splitlines() if line.endswith("-r dev.lock"))
    assert {"--no-deps", "--require-hashes"} <= set(install.split())
