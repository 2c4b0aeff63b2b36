"""Progress of a long stage: a bar on a terminal, or lines for whoever started the stage."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PROGRESS_FILE = "SLOWFAST_PROGRESS"  # environment variable: JSON lines are appended to this file instead of a bar


class Advance(Protocol):
    def __call__(self, steps: float = 1, note: str = "") -> None: ...


def bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)


@contextmanager
def progress(stage: str, total: float) -> Iterator[Advance]:
    """Yield `advance(steps, note)`, which tells how far the stage has come."""
    if target := os.environ.get(PROGRESS_FILE):
        yield _lines(Path(target), stage, total)
    elif sys.stderr.isatty():
        with bar(Console(stderr=True)) as display:
            task = display.add_task(stage, total=total, note="")
            yield lambda steps=1, note="": display.update(task, advance=steps, note=note)
    else:
        yield lambda steps=1, note="": None


def _lines(target: Path, stage: str, total: float) -> Advance:
    done = 0.0

    def advance(steps: float = 1, note: str = "") -> None:
        nonlocal done
        done += steps
        with target.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "done": done, "total": total, "note": note}) + "\n")

    return advance
