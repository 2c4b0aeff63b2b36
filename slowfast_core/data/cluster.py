"""Work on many files on all cores of a Ray cluster, whose nodes see the same files under the same paths."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from slowfast_core.data.workers import Failed
from slowfast_core.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
RETRIES = 3  # of an item whose worker or node is lost; one that fails by itself is not tried again
AHEAD = 2  # items handed to the cluster, by its cores


def run_on_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], address: str
) -> Iterator[tuple[Item, Result | Failed]]:
    """Like `run_isolated`, with a core of the cluster at `address` for each item. Nodes may come and go.

    `function` must be importable by its name on every node, and may be run twice at a time for one item: a node that
    is taken for lost may still work. Raises InputError when there is no cluster.
    """
    ray = _connect(address)
    task = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(function)
    todo = list(reversed(items))
    busy: dict[Any, Item] = {}
    try:
        while todo or busy:
            while todo and len(busy) < AHEAD * max(int(ray.cluster_resources().get("CPU", 0)), 1):
                item = todo.pop()
                busy[task.remote(item)] = item
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            yield busy.pop(ready), _outcome(ray, ready)
    finally:
        ray.shutdown()  # ends what still runs for us


def _connect(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"no Ray cluster: {reason}", address, "start it, or correct compute.address") from None
    return ray


def _reach(address: str) -> None:
    """Ray waits for minutes where nothing answers. Raises OSError."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _outcome(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Failed(" ".join(str(error.cause).split()) or type(error.cause).__name__)
    except ray.exceptions.RayError as error:
        return Failed(f"its worker was lost {RETRIES + 1} times ({type(error).__name__})")
