"""Runs `slowfast train` as users do, in processes that tests can kill."""

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
    """`slowfast train` in its own process group and workspace."""

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
        """Start a training that refuses its input (exit code 2); returns its one line."""
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
        """Wait until `count` checkpoints exist; they are written in the background, maybe epochs later."""
        limit = time.monotonic() + DEADLINE
        while len(list((self.partial / "checkpoints").glob("step-*"))) < count:
            assert self.processes[-1].poll() is None, self.processes[-1].communicate()
            assert time.monotonic() < limit
            time.sleep(0.005)

    def kill_in_epoch(self, epoch: float) -> None:
        """SIGKILL the process group and Ray's workers, as if the machine failed."""
        self.wait_for_epoch(epoch)
        self.kill()

    def kill_worker(self) -> None:
        """SIGKILL one of the training workers."""
        workers = [pid for pid in descendants(self.processes[-1].pid) if b"RayTrainWorker" in command_of(pid)]
        os.kill(workers[-1], signal.SIGKILL)

    def kill_driver(self) -> None:
        """SIGKILL only the command; Ray then ends its workers."""
        self.processes[-1].kill()
        self.processes[-1].communicate()

    def terminate(self) -> str:
        """SIGTERM the command, wait for its end and return its standard error."""
        self.processes[-1].terminate()
        _, errors = self.processes[-1].communicate(timeout=DEADLINE)
        assert self.processes[-1].returncode == 143, errors
        return errors

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                children = descendants(process.pid)
                os.killpg(process.pid, signal.SIGKILL)
                for pid in children:
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
            continue  # the process has ended
        children.setdefault(parent, []).append(int(stat.parent.name))
    below = list(children.get(pid, []))
    for child in below:
        below += children.get(child, [])
    return below


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # the process has ended


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The complete lines of a log, which may not exist yet or may still grow."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
