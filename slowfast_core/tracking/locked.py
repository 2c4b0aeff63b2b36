"""A SQLite store that other processes are writing to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE, PAUSE = 60.0, 0.1  # seconds


def when_unlocked(work: Callable[[], T]) -> T:
    """`work()`, again for up to a minute while SQLite says that the database is locked.

    MLflow itself waits 20 s, but not when it opens a store: then it is the 5 s of Python's sqlite3.
    """
    from sqlalchemy.exc import OperationalError

    until = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except OperationalError as error:
            if "database is locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(PAUSE)
