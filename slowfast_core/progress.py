"""Progress of a long stage: a bar on a terminal, lines every 30 s elsewhere, events for the process that runs it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console
from rich.filesize import decimal
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

from slowfast_core.background import repeated
from slowfast_core.json_lines import append
from slowfast_core.verbosity import is_quiet

PROGRESS_FILE = "SLOWFAST_PROGRESS"  # environment variable: events are appended to this file as JSON lines
LINE_SECONDS = 30.0  # between two lines where there is no terminal
SPEED_SECONDS = 300.0  # over which the rate of such a line is averaged

Unit = Literal["items", "bytes"]


class Advance(Protocol):
    def __call__(self, steps: float = 1, note: str = "") -> None: ...


class DoneColumn(ProgressColumn):
    """Completed and total number of items or bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._items = MofNCompleteColumn()
        self._bytes = DownloadColumn()

    def render(self, task: Task) -> Text:
        return self._bytes.render(task) if task.fields.get("unit") == "bytes" else self._items.render(task)


def bar(console: Console) -> Progress:
    """A rich Progress whose tasks have the fields `note` and, optionally, `unit`."""
    columns = (TextColumn("{task.description:<18}"), BarColumn(), DoneColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)


@contextmanager
def displayed(console: Console, every: float | None = None) -> Iterator[Progress]:
    """Yield a Progress: shown as bars on a terminal, printed as lines every `every` (30) seconds elsewhere."""
    if console.is_terminal and not console.is_dumb_terminal:
        with bar(console) as tasks:
            yield tasks
        return
    tasks = Progress(console=console, disable=True, speed_estimate_period=SPEED_SECONDS)

    def print_lines() -> None:
        for task in tasks.tasks:
            console.print(progress_line(task), soft_wrap=True, markup=False, highlight=False)

    with repeated(print_lines, every or LINE_SECONDS):
        yield tasks


def progress_line(task: Task) -> str:
    """E.g. `train: 45 % (540/1200), 3.20/s, ETA 0:03:26, epoch 4.5 loss 2.123`."""
    is_bytes = task.fields.get("unit") == "bytes"
    shown = decimal if is_bytes else "{:,}".format
    done = shown(int(task.completed))
    if task.total:
        parts = [f"{task.description}: {task.percentage:.0f} % ({done}/{shown(int(task.total))})"]
    else:
        parts = [f"{task.description}: {done} done, {timedelta(seconds=int(task.elapsed or 0))} elapsed"]
    if speed := task.speed:
        parts.append(f"{decimal(int(speed))}/s" if is_bytes else f"{speed:.2f}/s")
    if (left := task.time_remaining) is not None:
        parts.append(f"ETA {timedelta(seconds=int(left))}")
    return ", ".join([*parts, *filter(None, [task.fields.get("note", "")])])


@contextmanager
def progress(stage: str, total: float, unit: Unit = "items") -> Iterator[Advance]:
    """Yield `advance(steps, note)`, which reports the progress of a stage; threads may share it.

    Where $SLOWFAST_PROGRESS names a file, each call appends an event to it, and stderr gets lines, never a bar.
    """
    target = os.environ.get(PROGRESS_FILE)
    console = Console(stderr=True, quiet=is_quiet(), force_terminal=False if target else None)
    with displayed(console) as tasks:
        task = tasks.add_task(stage, total=total, note="", unit=unit)
        lock = threading.Lock()

        def advance(steps: float = 1, note: str = "") -> None:
            with lock:
                tasks.update(task, advance=steps, note=note)
                if target:
                    done = tasks.tasks[0].completed
                    fields = {"stage": stage, "total": total, "unit": unit, "done": done, "note": note}
                    append(Path(target), fields)

        yield advance
