"""Lets a SQLite store of MLflow be moved or copied together with its artifacts.

MLflow writes absolute artifact locations into its database. The artifacts of a SQLite store are in the folder
`mlartifacts` next to it, and the location of MLflow's experiment `Default` records where that folder was when the store
was last opened. If it is elsewhere now, all locations below the old one are rewritten in one transaction before
anything is read, so that nothing outside is changed even if the original still exists.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from slowfast_core.errors import InputError

ARTIFACTS = "mlartifacts"
DEFAULT_EXPERIMENT = 0
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
WAIT_SECONDS = 60  # for another process that writes


def artifacts_of(database: Path) -> str:
    """The URI of the folder for the artifacts of a store."""
    return (database.resolve().parent / ARTIFACTS).as_uri()


def settle(database: Path) -> None:
    """Update the locations in a moved store to its current folder. Raises InputError if the store is read-only."""
    if not database.is_file():
        return
    here = artifacts_of(database)
    address = f"file:{quote(str(database.resolve()))}?mode=rw"
    with closing(sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS, isolation_level=None)) as store:
        try:
            if not _has_experiments(store) or _recorded(store) == here:
                return
            if os.access(database, os.W_OK) or _before(store, here, database):
                _move(store, here, database)
        except sqlite3.OperationalError as error:
            what = f"the locations in the MLflow store cannot be set to this folder: {error}"
            raise InputError(what, database, "make it writable, or open the workspace where it was") from None
        except sqlite3.DatabaseError:
            return  # not a database: MLflow opens it next and reports it


def _move(store: sqlite3.Connection, here: str, database: Path) -> None:
    store.execute("BEGIN IMMEDIATE")  # another process may do the same: the second one finds it done
    before = _before(store, here, database)
    if before is not None:
        for table, column in LOCATIONS:
            if _has_column(store, table, column):
                _replace(store, table, column, before, here)
    store.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (here, DEFAULT_EXPERIMENT))
    store.execute("COMMIT")


def _before(store: sqlite3.Connection, here: str, database: Path) -> str | None:
    """Return the earlier location of the artifacts; None if it is unchanged or unknown.

    A store that predates this record is recognized by its single location, if the artifacts are in this folder.
    """
    recorded = _recorded(store)
    if recorded and recorded.endswith(f"/{ARTIFACTS}"):
        return None if recorded == here else recorded
    rows = store.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    found = {where for (where,) in rows if where and where.startswith("file://") and where.endswith(f"/{ARTIFACTS}")}
    if len(found) != 1 or here in found or not (database.resolve().parent / ARTIFACTS).is_dir():
        return None
    return str(found.pop())


def _replace(store: sqlite3.Connection, table: str, column: str, before: str, here: str) -> None:
    """Replace a location and those below it; `table` and `column` are trusted names from LOCATIONS."""
    below = f"substr({column}, 1, ?) = ?"
    change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {below}"
    store.execute(change, (here, len(before) + 1, before, len(before) + 1, f"{before}/"))


def _recorded(store: sqlite3.Connection) -> str | None:
    query = "SELECT artifact_location FROM experiments WHERE experiment_id = ?"
    row = store.execute(query, (DEFAULT_EXPERIMENT,)).fetchone()
    return str(row[0]) if row else None


def _has_experiments(store: sqlite3.Connection) -> bool:
    """MLflow may be about to make the tables."""
    return _has_column(store, "experiments", "artifact_location")


def _has_column(store: sqlite3.Connection, table: str, column: str) -> bool:
    return any(name == column for _, name, *_ in store.execute(f"PRAGMA table_info({table})"))
