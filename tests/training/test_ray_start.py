"""A local Ray cluster that starts slowly or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

START = """
import os, signal, sys, threading, time
from pathlib import Path
from slowfast_core.parallel import ray_connection as connection

def stop_once(part):
    while True:
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                ours = int(file.read_text().rpartition(")")[2].split()[1]) == os.getpid()
                if ours and part in (file.parent / "cmdline").read_bytes():
                    os.kill(int(file.parent.name), signal.SIGSTOP)
                    return
            except OSError:
                continue
        time.sleep(0.002)

if sys.argv[1] == "impatient":
    connection.START_SECONDS = (0, 120, 120)
elif sys.argv[1] == "stopped":
    threading.Thread(target=stop_once, args=(b"/raylet/raylet",), daemon=True).start()
with connection.connected(None, {"num_cpus": 1, "include_dashboard": False}) as ray:
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        yield Path(folder)


def start(temporary: Path, how: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "TMPDIR": str(temporary), **environment}
    command = [sys.executable, "-c", START, how]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=280, check=False)


def left(temporary: Path) -> list[str]:
    """Files and processes (by their commands) that remain."""
    found = [str(path) for path in temporary.rglob("*") if path.is_file() and path.name != ".lock"]
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(temporary).encode() in file.read_bytes():
                found.append((file.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", ["impatient", pytest.param("stopped", marks=pytest.mark.exhaustive)])
def test_a_slow_start_is_retried_with_a_longer_limit(temporary: Path, how: str) -> None:
    done = start(temporary, how)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("Ray has not started in ")]
    assert messages[0].startswith("Ray has not started in ")
    assert len(messages) <= 2  # a busy machine may need one more try
    assert left(temporary) == []


def test_a_cluster_that_never_starts_ends_in_one_line(temporary: Path) -> None:
    done = start(temporary, "plain", RAY_gcs_server_port_wait_time_s="0")
    assert done.returncode == 1
    assert [line.startswith("Ray has not started in ") for line in done.stderr.splitlines()].count(True) == 3
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: Ray has not started in 3 tries: ")
    assert last.endswith("; run again when the machine is less busy")
    assert left(temporary) == []
