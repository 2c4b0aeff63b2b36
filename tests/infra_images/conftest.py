"""The CPU image, built from this tree."""

import subprocess

import pytest
from images import IMAGES


@pytest.fixture(scope="session")
def cpu_image() -> str:
    built = subprocess.run([IMAGES / "build", "cpu"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr
    return "slowfast-python:dev"
