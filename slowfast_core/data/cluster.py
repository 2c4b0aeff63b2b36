"""Work on many files on all cores of a Ray cluster, whose nodes see the same files under the same paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from slowfast_core.cluster.connection import connected
from slowfast_core.data.workers import Failed

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
    todo = list(reversed(items))
    busy: dict[Any, Item] = {}
    with connected(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(function)
        while todo or busy:
            while todo and len(busy) < AHEAD * max(int(ray.cluster_resources().get("CPU", 0)), 1):
                item = todo.pop()
                busy[task.remote(item)] = item
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            yield busy.pop(ready), _outcome(ray, ready)


def _outcome(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Failed(" ".join(str(error.cause).split()) or type(error.cause).__name__)
    except ray.exceptions.RayError as error:
        return Failed(f"its worker was lost {RETRIES + 1} times ({type(error).__name__})")
