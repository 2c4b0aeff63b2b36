"""Shared by the tests of the images: paths of their sources, the docker command and the pinned versions."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "infra/images"
PIN = re.compile(r"^([a-z0-9.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", flags=re.M)


def docker(*arguments: object) -> str:
    """Run docker and return its output; fails with its error."""
    ran = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def pins(kind: str) -> dict[str, str]:
    """Version of each package in `cpu.lock`, `gpu.lock` or `dev.lock`."""
    return {name: version for name, version, _ in PIN.findall(lock(kind).read_text())}


def lock(kind: str) -> Path:
    return (ROOT if kind == "dev" else IMAGES) / f"{kind}.lock"
