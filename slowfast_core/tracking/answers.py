"""Waiting for MLflow for a bounded time, and its failures in one line."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from slowfast_core.credentials import without_credentials
from slowfast_core.errors import InputError
from slowfast_core.tracking.store_failures import store_failure

T = TypeVar("T")
SYSTEM_ERROR = re.compile(r"\[Errno -?\d+\] ([^'\")\]]+)")
UNANSWERED = re.compile(r"API request to \S+ failed with (timeout )?exception")  # MLflow, when no answer came


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, which goes on in a thread of its own. Raises TimeoutError when it takes longer."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001  it is raised where the result is awaited
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)  # a process does not wait for it at its end
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return results[0]


def reason_of(error: Exception) -> str:
    """Why MLflow failed, in one line without credentials."""
    text = str(error)
    if UNANSWERED.search(text):
        found = SYSTEM_ERROR.search(text)
        return f"no answer: {found[1].strip()}" if found else "no answer in time"
    lines = text.strip().splitlines() or [type(error).__name__]
    return without_credentials(lines[0].rstrip("."))


def is_unanswered(error: Exception) -> bool:
    """Whether a server did not answer, or not in time; where it did, the request was wrong."""
    return isinstance(error, (TimeoutError, ConnectionError)) or UNANSWERED.search(str(error)) is not None


@contextmanager
def mlflow_in_one_line(uri: str) -> Iterator[None]:
    """Raise the failures of MLflow as InputError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, TimeoutError) as error:
        if not is_unanswered(error):
            raise store_failure(error, uri) from error
        fix = "start the server, or correct tracking.uri of the recipe; a rerun goes on from what was done"
        raise InputError(f"MLflow cannot be used: {reason_of(error)}", uri, fix) from None
