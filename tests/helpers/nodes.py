"""Nodes of a Ray cluster on this machine, in processes that tests can kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainings import command_of, descendants


@dataclass
class Node:
    """`ray start --block` with one CPU, in its own process group."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, *options: str) -> Node:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True
        )
        output = []
        for line in process.stdout or ():
            output.append(line)
            if "Ray runtime started" in line:
                return cls(process)
        raise AssertionError("".join(output))

    def workers(self) -> list[int]:
        return [pid for pid in descendants(self.process.pid) if b"RayTrainWorker" in command_of(pid)]

    def kill(self) -> None:
        """Kill all processes of the node at once, as if its machine failed."""
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@contextmanager
def cluster_of(count: int, *head_options: str) -> Iterator[tuple[str, list[Node]]]:
    """Address and nodes of a cluster, the head first; `head_options` are further options of the head's `ray start`."""
    port = free_port()
    nodes: list[Node] = []
    address = f"127.0.0.1:{port}"
    try:
        for options in (("--head", f"--port={port}", *head_options), *[(f"--address={address}",)] * (count - 1)):
            nodes.append(Node.start(*options, f"--dashboard-agent-listen-port={free_port()}"))
        yield address, nodes
    finally:
        for node in nodes:
            node.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
