"""What the tests of the images share: where the sources are, docker's command, and the pins."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "infra/images"
PIN = re.compile(r"^([a-z0-9.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", flags=re.M)


def docker(*arguments: object) -> str:
    """What docker prints; its own error when it fails."""
    ran = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def pins(kind: str) -> dict[str, str]:
    """Version of each package in `cpu.lock`, `gpu.lock` or `dev.lock`."""
    return {name: version for name, version, _ in PIN.findall(lock(kind).read_text())}


def lock(kind: str) -> Path:
    return (ROOT if kind == "dev" else IMAGES) / f"{kind}.lock"
