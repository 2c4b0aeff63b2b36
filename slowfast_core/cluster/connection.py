"""The one way to Ray: the settings that all of our processes share, and one line where no cluster answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from slowfast_core.errors import InputError


@contextmanager
def connected(address: str | None, local: Mapping[str, Any] | None = None, **options: Any) -> Iterator[Any]:
    """Ray on the cluster at `address`; None: on one of this machine, made with the options `local`.

    What still runs for us at the end of the block is ended. Raises InputError when nothing answers at `address`.
    """
    ray = ray_with_settings()
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:  # for Ray itself None is any cluster that it finds on this machine
            ray.init("local", **quiet, **options, **(local or {}))
        else:
            _join(ray, address, **quiet, **options)
        yield ray
    finally:
        ray.shutdown()


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
