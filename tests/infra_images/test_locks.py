"""The pins of the images fit pyproject.toml, and each has its checksums."""

import re
import tomllib

import pytest
from images import IMAGES, PIN, ROOT, pins
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(line) for line in [*project["dependencies"], *extras["cluster"], *extras["detector"]]]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_line_is_a_pin_with_checksums(kind: str) -> None:
    assert PIN.sub("", (IMAGES / f"{kind}.lock").read_text()) == ""


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_pins_fit_the_project(kind: str) -> None:
    pinned = pins(kind)
    if kind == "cpu":
        (pinned["torch"],) = re.findall(r"torch==(\S+)$", (IMAGES / "Dockerfile.cpu").read_text(), flags=re.M)
    wrong = [str(r) for r in requirements() if pinned.get(canonicalize_name(r.name), "none") not in r.specifier]
    assert wrong == []


def test_the_images_differ_in_torch_and_cuda_alone() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    more = {name for name in gpu if name not in cpu}
    assert {name: gpu[name] for name in cpu} == cpu
    assert {name.split("-")[0] for name in more} == {"torch", "triton", "cuda", "nvidia"}
