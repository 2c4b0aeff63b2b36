"""Work on many files on all cores of a Ray cluster, whose nodes see the same files under the same paths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from slowfast_core.errors import InputError
from slowfast_core.parallel.processes import Failed, run_limited
from slowfast_core.parallel.ray_connection import connected

Item = TypeVar("Item")
Result = TypeVar("Result")
RETRIES = 3  # of an item whose worker or node is lost; one that fails by itself is not tried again
AHEAD = 2  # items handed to the cluster, by its cores
LOOK_SECONDS = 5.0  # between looks at the cluster while nothing is done
NO_CORES_SECONDS = 1800.0  # for which a cluster may be without a core: one that grows on demand has none at first


def run_on_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], address: str, limit_seconds: float = 0
) -> Iterator[tuple[Item, Result | Failed]]:
    """Like `run_isolated`, with a core of the cluster at `address` for each item. Nodes may come and go.

    `function` must be importable by its name on every node, and may be run twice at a time for one item: a node that
    is taken for lost may still work. Ray itself limits the memory of a node. Raises InputError when there is no
    cluster, or for long none with a core.
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
            raise InputError(what, address, "start worker nodes, or see why it gets none")


def _outcome(ray: Any, reference: Any, limit_seconds: float) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Failed(" ".join(str(error.cause).split()) or type(error.cause).__name__)
    except ray.exceptions.RayError as error:
        limit = f", as also happens after {limit_seconds:g} s without progress" if limit_seconds else ""
        return Failed(f"its worker was lost {RETRIES + 1} times ({type(error).__name__}){limit}")
