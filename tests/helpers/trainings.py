"""`slowfast train` as users run it: in processes that can be killed, in workspaces of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slowfast_core.workspace import Workspace

DEADLINE = 240.0


@dataclass
class Training:
    """`slowfast train` in a process group of its own, in a workspace of its own."""

    recipe: Path
    at: Workspace
    overrides: tuple[str, ...] = ()
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        command = [sys.executable, "-c", "from pipelines.cli.main import main; main()"]
        command += ["train", str(self.recipe), "--json"]
        command += ["--workspace", str(self.at.root)]
        for override in self.overrides:
            command += ["--set", override]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.processes.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipes))

    def finish(self) -> dict[str, Any]:
        output, errors = self.processes[-1].communicate(timeout=DEADLINE)
        assert self.processes[-1].returncode == 0, errors
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result

    def refusal(self) -> str:
        self.start()
        _, errors = self.processes[-1].communicate(timeout=DEADLINE)
        assert self.processes[-1].returncode == 2, errors
        assert errors.count("\n") == 1
        return errors

    @property
    def folder(self) -> Path:
        return self.at.run("tiny", "train")

    @property
    def partial(self) -> Path:
        return self.at.run("tiny", ".train.partial")

    def wait_for_epoch(self, epoch: float) -> None:
        limit = time.monotonic() + DEADLINE
        process = self.processes[-1]
        while not any(line.get("epoch", 0) >= epoch for line in lines_of(self.partial / "log.jsonl")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.005)

    def wait_for_checkpoints(self, count: int) -> None:
        """They are written beside the steps, and so may come epochs later."""
        limit = time.monotonic() + DEADLINE
        while len(list((self.partial / "checkpoints").glob("step-*"))) < count:
            assert self.processes[-1].poll() is None, self.processes[-1].communicate()
            assert time.monotonic() < limit
            time.sleep(0.005)

    def kill_in_epoch(self, epoch: float) -> None:
        """SIGKILL the process group, and Ray's workers with it, as when a machine goes down."""
        self.wait_for_epoch(epoch)
        self.kill()

    def kill_worker(self) -> None:
        """SIGKILL one of the processes that train."""
        workers = [pid for pid in descendants(self.processes[-1].pid) if b"RayTrainWorker" in command_of(pid)]
        os.kill(workers[-1], signal.SIGKILL)

    def kill_driver(self) -> None:
        """SIGKILL the command alone; Ray ends its workers when it notices."""
        self.processes[-1].kill()
        self.processes[-1].communicate()

    def terminate(self) -> str:
        """SIGTERM the command, and wait for its end; returns what it said."""
        self.processes[-1].terminate()
        _, errors = self.processes[-1].communicate(timeout=DEADLINE)
        assert self.processes[-1].returncode == 143, errors
        return errors

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                below = descendants(process.pid)
                os.killpg(process.pid, signal.SIGKILL)
                for pid in below:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                process.communicate()


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        children.setdefault(parent, []).append(int(stat.parent.name))
    below = list(children.get(pid, []))
    for child in below:
        below += children.get(child, [])
    return below


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log that may not be there yet, or be written to."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
