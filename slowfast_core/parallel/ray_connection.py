"""Connects to Ray with the settings that all processes share, and reports an unreachable cluster in one line."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from slowfast_core.errors import InputError
from slowfast_core.scratch import scratch

START_SECONDS = (30, 120, 300)  # time for a local cluster to start, in each attempt


@contextmanager
def connected(
    address: str | None, local: Mapping[str, Any] | None = None, owner: Path | None = None, **options: Any
) -> Iterator[Any]:
    """Connect to the Ray cluster at `address`; None: start a local cluster with the options `local`.

    At the end of the block, everything this process still runs on the cluster is stopped; all processes and files of a
    local cluster are removed. Leftovers of an earlier local cluster for `owner` are removed before the start. Raises
    InputError if nothing answers at `address`, RuntimeError if a local cluster does not start.
    """
    ray = ray_with_settings()
    options = {"log_to_driver": False, "logging_level": "ERROR", **options}
    with ExitStack() as stack:
        if address is None:
            stack.enter_context(_started(ray, owner or Path.cwd(), {**options, **(local or {})}))
        stack.callback(ray.shutdown)
        if address is not None:
            _join(ray, address, **options)
        yield ray


def _started(ray: Any, owner: Path, options: Mapping[str, Any]) -> ExitStack:
    """Start a local cluster, in several attempts with longer limits, and remove the leftovers of failed attempts."""
    for seconds in START_SECONDS:
        with ExitStack() as stack:
            folder = stack.enter_context(scratch(owner))
            try:
                with patience(seconds):
                    ray.init(
                        "local", _temp_dir=str(folder), **options
                    )  # without "local", Ray may join a cluster on this machine
            except Exception as error:  # noqa: BLE001  Ray's exceptions have no common base class
                reason = " ".join(str(error).split()) or type(error).__name__
                ray.shutdown()
            else:
                return stack.pop_all()
        print(f"Ray has not started in {seconds} s: {reason}", file=sys.stderr)
    tries = len(START_SECONDS)
    raise RuntimeError(f"Ray has not started in {tries} tries: {reason}; run again when the machine is less busy")


@contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Set how long Ray waits for the parts of a local cluster. Its limit for the node is a constant 30 s (node.py)."""
    from ray._private import services

    ask = services.get_node

    def get_node(*arguments: Any) -> Any:
        limit = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:  # the node is not registered yet
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)

    names = {"RAY_gcs_server_port_wait_time_s": seconds, "RAY_agent_register_timeout_ms": 1000 * seconds}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(value) for name, value in names.items() if before[name] is None})
    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = ask
        for name in names:
            if before[name] is None:
                del os.environ[name]


def _join(ray: Any, address: str, **options: Any) -> None:
    try:
        reach(address)
        ray.init(address, **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        fix = "start it, or correct compute.address or RAY_AUTH_TOKEN"
        raise InputError(f"no Ray cluster: {reason}", address, fix) from None


def ray_with_settings() -> Any:
    """Import Ray after setting its environment variables."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_worker_niceness", "0")  # the default, 15, would give a training the lowest priority
    import ray

    return ray


def reach(address: str) -> None:
    """Raise OSError at once if nothing answers at `address`, where Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
