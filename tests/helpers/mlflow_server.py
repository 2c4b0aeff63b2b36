"""An MLflow server in a process that tests can kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


class Server:
    """MLflow on loopback, at an address that stays the same after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{probe.getsockname()[1]}"

    def start(self) -> None:
        where = ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        where += ["--artifacts-destination", str(self.folder / "artifacts"), "--port", self.uri.rpartition(":")[2]]
        command = [sys.executable, "-m", "mlflow", "server", *where, "--workers", "1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, start_new_session=True, **quiet)
        limit = time.monotonic() + 240
        while time.monotonic() < limit:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.2)
            else:
                return
        raise AssertionError("the MLflow server did not start")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
