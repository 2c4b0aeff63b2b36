"""Reports the progress of a long stage: a bar on a terminal, or JSON lines in a file that the caller reads."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PROGRESS_FILE = "SLOWFAST_PROGRESS"  # environment variable: JSON lines are appended to this file instead of a bar


Unit = Literal["items", "bytes"]


class Advance(Protocol):
    def __call__(self, steps: float = 1, note: str = "") -> None: ...


class DoneColumn(ProgressColumn):
    """Column with the completed and the total number of items or bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._items = MofNCompleteColumn()
        self._bytes = DownloadColumn()

    def render(self, task: Task) -> Text:
        return self._bytes.render(task) if task.fields.get("unit") == "bytes" else self._items.render(task)


def bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<18}"), BarColumn(), DoneColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)


@contextmanager
def progress(stage: str, total: float, unit: Unit = "items") -> Iterator[Advance]:
    """Yield a thread-safe function `advance(steps, note)` that reports completed steps."""
    if target := os.environ.get(PROGRESS_FILE):
        yield _lines(Path(target), {"stage": stage, "total": total, "unit": unit})
    elif sys.stderr.isatty():
        with bar(Console(stderr=True)) as display:
            task = display.add_task(stage, total=total, note="", unit=unit)
            yield lambda steps=1, note="": display.update(task, advance=steps, note=note)
    else:
        yield lambda steps=1, note="": None


def _lines(target: Path, fields: dict[str, object]) -> Advance:
    done = 0.0
    lock = threading.Lock()

    def advance(steps: float = 1, note: str = "") -> None:
        nonlocal done
        with lock, target.open("a", encoding="utf-8") as file:
            done += steps
            file.write(json.dumps({**fields, "done": done, "note": note}) + "\n")

    return advance
