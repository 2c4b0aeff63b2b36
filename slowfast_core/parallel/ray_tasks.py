"""Processes many files on all cores of a Ray cluster whose nodes share the files under the same paths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from slowfast_core.errors import InputError
from slowfast_core.parallel.processes import Failed, run_limited
from slowfast_core.parallel.ray_connection import connected

Item = TypeVar("Item")
Result = TypeVar("Result")
RETRIES = 3  # of an item after its worker or node is lost; an item that raises is not retried
AHEAD = 2  # submitted items per core of the cluster
LOOK_SECONDS = 5.0  # between checks of the cluster while no item completes
NO_CORES_SECONDS = 1800.0  # time without cores before giving up: a cluster that scales on demand has none at first


def run_on_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], address: str, limit_seconds: float = 0
) -> Iterator[tuple[Item, Result | Failed]]:
    """Like `run_isolated`, with one core of the cluster at `address` per item. Nodes may join and leave.

    `function` must be importable by its name on every node, and may run twice at the same time for one item, because a
    node that Ray considers lost may still be working. Ray itself limits the memory of a node. Raises InputError if
    there is no cluster, or if it has no core for NO_CORES_SECONDS.
    """
    todo = list(reversed(items))
    busy: dict[Any, Item] = {}
    with connected(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(run_limited)
        while todo or busy:
            while todo and len(busy) < AHEAD * max(_cores(ray), 1):
                item = todo.pop()
                busy[task.remote(function, item, limit_seconds)] = item
            ready = _first_done(ray, list(busy), address)
            yield busy.pop(ready), _outcome(ray, ready, limit_seconds)


def _cores(ray: Any) -> int:
    return int(ray.cluster_resources().get("CPU", 0))


def _first_done(ray: Any, busy: list[Any], address: str) -> Any:
    since = time.monotonic()
    while True:
        ready, _ = ray.wait(busy, num_returns=1, timeout=LOOK_SECONDS)
        if ready:
            return ready[0]
        if _cores(ray):
            since = time.monotonic()
        elif time.monotonic() - since > NO_CORES_SECONDS:
            what = f"the Ray cluster has had no CPU for {NO_CORES_SECONDS / 60:.0f} minutes"
            raise InputError(what, address, "start worker nodes, or check why none start")


def _outcome(ray: Any, reference: Any, limit_seconds: float) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Failed(" ".join(str(error.cause).split()) or type(error.cause).__name__)
    except ray.exceptions.RayError as error:
        limit = f", as also happens after {limit_seconds:g} s without progress" if limit_seconds else ""
        return Failed(f"its worker was lost {RETRIES + 1} times ({type(error).__name__}){limit}")
