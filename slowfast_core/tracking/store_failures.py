"""A tracking store that cannot be used, as one line: MLflow passes on pages of SQLAlchemy, or a paragraph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.environment import explained
from slowfast_core.errors import InputError

SQLITE = "sqlite:///"


@contextmanager
def store_failures_in_one_line(uri: str) -> Iterator[None]:
    """Raise InputError for whatever keeps MLflow from the store at `uri`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise store_failure(error, uri) from error


def store_failure(error: Exception, uri: str) -> InputError:
    database = [Path(uri.removeprefix(SQLITE))] if uri.startswith(SQLITE) else []
    if line := explained(error, *database):
        return line
    text = str(error)
    if "mlflow db upgrade" in text:
        what = "the tracking database is of another MLflow version"
        return InputError(what, uri, f"back it up, then run 'mlflow db upgrade {uri}'")
    reason = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    return InputError(f"MLflow cannot use the store: {reason}", uri, "correct tracking.uri of the recipe")
