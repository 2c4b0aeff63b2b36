"""Keeps metrics and files that an MLflow server did not accept, in one workspace folder per run, until it does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from slowfast_core.files import copy_whole, write_whole
from slowfast_core.workspace import Workspace

RECORD, FILES = "record.json", "files"


class Point(NamedTuple):
    """A value of a metric. MLflow stores it once even if it is sent twice, because the time is the measurement's."""

    metric: str
    value: float
    milliseconds: int  # since 1970
    step: int


@dataclass(frozen=True)
class Unsent:
    """The unsent end of a run: its last points and files, and its status."""

    run: str
    name: str  # of the run, for people
    store: str  # address of the MLflow server, without credentials; "" for the workspace's own store
    status: str
    ended: int  # milliseconds since 1970
    points: tuple[Point, ...] = ()
    reason: str = ""  # why MLflow did not accept it

    def keep(self, folder: Path, files: Sequence[Path] = ()) -> None:
        """Add the record to `folder` atomically, after earlier points of the same run."""
        (folder / FILES).mkdir(parents=True, exist_ok=True)
        for file in files:
            copy_whole(file, folder / FILES / file.name)
        before = read(folder)
        replace(self, points=(*(before.points if before else ()), *self.points)).write(folder)

    def write(self, folder: Path) -> None:
        write_whole(folder / RECORD, json.dumps(asdict(self)))


def read(folder: Path) -> Unsent | None:
    record = folder / RECORD
    if not record.is_file():
        return None
    fields = json.loads(record.read_text(encoding="utf-8"))
    return Unsent(**{**fields, "points": tuple(Point(*point) for point in fields["points"])})


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / FILES).glob("[!.]*"))


def remove(folder: Path) -> None:
    """Remove a folder, the record first, so that a partly removed folder is not sent."""
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def all_of(at: Workspace) -> list[tuple[Path, Unsent]]:
    """Return all unsent records in the workspace with their folders."""
    found = ((record.parent, read(record.parent)) for record in sorted(at.unsent.glob(f"*/{RECORD}")))
    return [(folder, unsent) for folder, unsent in found if unsent]


def described(at: Workspace) -> list[str]:
    """Return one line for each server that has not received all records."""
    stores: dict[str, list[Unsent]] = {}
    for _, unsent in all_of(at):
        stores.setdefault(unsent.store, []).append(unsent)
    lines = []
    for store, runs in stores.items():
        points = sum(len(run.points) for run in runs)
        what = f"MLflow ({store or at.tracking_uri}) did not take the end of {len(runs)} run{'s' * (len(runs) > 1)}"
        kept = f"{points} points are kept in {at.unsent}; the next `slowfast run` sends them"
        lines.append(f"{what}: {runs[-1].reason}; {kept}")
    return lines
