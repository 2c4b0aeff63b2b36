"""Handles failures of MLflow and its store: retries where they help, and one-line reports."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from slowfast_core.credentials import without_credentials
from slowfast_core.environment import explained
from slowfast_core.errors import InputError

T = TypeVar("T")
SQLITE = "sqlite:///"
PATIENCE, PAUSE = 60.0, 0.1  # seconds that a locked database is waited for, and between two attempts
SYSTEM_ERROR = re.compile(r"\[Errno -?\d+\] ([^'\")\]]+)")
UNANSWERED = re.compile(r"API request to \S+ failed with (timeout )?exception")  # MLflow, when no answer came


def reason_of(error: Exception) -> str:
    """Return why MLflow failed, as one line without credentials."""
    text = str(error)
    if UNANSWERED.search(text):
        found = SYSTEM_ERROR.search(text)
        return f"no answer: {found[1].strip()}" if found else "no answer in time"
    lines = text.strip().splitlines() or [type(error).__name__]
    return without_credentials(lines[0].rstrip("."))


def is_unanswered(error: Exception) -> bool:
    """Whether the server did not answer in time; otherwise it refused the request."""
    return isinstance(error, (TimeoutError, ConnectionError)) or UNANSWERED.search(str(error)) is not None


@contextmanager
def mlflow_in_one_line(uri: str) -> Iterator[None]:
    """Raise failures of MLflow and of its store at `uri` as InputError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, TimeoutError) as error:
        if not is_unanswered(error):
            raise store_failure(error, uri) from error
        fix = "start the server, or correct tracking.uri of the recipe; a rerun keeps finished work"
        raise InputError(f"MLflow cannot be used: {reason_of(error)}", uri, fix) from None


def when_unlocked(work: Callable[[], T]) -> T:
    """Return `work()`, retried for up to a minute while SQLite reports a locked database.

    MLflow itself waits 20 s, except when it opens a store: then the 5 s of Python's sqlite3 apply.
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


def store_failure(error: Exception, uri: str) -> InputError:
    database = [Path(uri.removeprefix(SQLITE))] if uri.startswith(SQLITE) else []
    if line := explained(error, *database):
        return line
    text = str(error)
    if "mlflow db upgrade" in text:
        what = "the tracking database has another MLflow version"
        return InputError(what, uri, f"back it up, then run 'mlflow db upgrade {uri}'")
    reason = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    return InputError(f"MLflow cannot use the store: {reason}", uri, "correct tracking.uri of the recipe")
