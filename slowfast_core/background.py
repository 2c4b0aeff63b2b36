"""Work in threads: calls that are repeated while a block runs, and calls with a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")
JOIN_SECONDS = 5.0  # longest wait at the end for a call in progress


@contextmanager
def repeated(work: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call `work` every `seconds` seconds in a thread while the block runs.

    After an OSError, such as an outage of a network file system, the next call comes as usual.
    """
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            with suppress(OSError):
                work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_SECONDS)


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return the result of `work`, run in a thread that is not stopped. Raises TimeoutError after `seconds`."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  raised in the calling thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # the process does not wait for it at exit
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return future.result()
