"""The one way to Ray: the settings that all of our processes share, and one line where no cluster answers."""

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

START_SECONDS = (30, 120, 300)  # that a local cluster may take to start, in each try


@contextmanager
def connected(
    address: str | None, local: Mapping[str, Any] | None = None, owner: Path | None = None, **options: Any
) -> Iterator[Any]:
    """Ray on the cluster at `address`; None: on one of this machine, made with the options `local`.

    What still runs for us at the end of the block is ended; of a local cluster all processes and files, those of an
    earlier one for `owner` before it starts. Raises InputError when nothing answers at `address`, RuntimeError when a
    local cluster does not start.
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
    """A local cluster, tried again with more patience where the machine is busy; what a failed start left is ended."""
    for seconds in START_SECONDS:
        with ExitStack() as stack:
            folder = stack.enter_context(scratch(owner))
            try:
                with _patience(seconds):
                    ray.init("local", _temp_dir=str(folder), **options)  # None would be any cluster on this machine
            except Exception as error:  # noqa: BLE001  Ray's own have no common kind
                reason = " ".join(str(error).split()) or type(error).__name__
                ray.shutdown()
            else:
                return stack.pop_all()
        print(f"Ray has not started in {seconds} s: {reason}", file=sys.stderr)
    tries = len(START_SECONDS)
    raise RuntimeError(f"Ray has not started in {tries} tries: {reason}; run again when the machine is less busy")


@contextmanager
def _patience(seconds: int) -> Iterator[None]:
    """How long Ray waits for the parts of a cluster that it starts. For the node it has a fixed 30 s (node.py)."""
    from ray._private import services

    ask = services.get_node

    def get_node(*arguments: Any) -> Any:
        limit = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:  # it is not registered yet
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
        mend = "start it, or correct compute.address or RAY_AUTH_TOKEN"
        raise InputError(f"no Ray cluster: {reason}", address, mend) from None


def ray_with_settings() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 otherwise: a training would give way to all else here
    import ray

    return ray


def reach(address: str) -> None:
    """Ray waits for minutes where nothing answers. Raises OSError."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
