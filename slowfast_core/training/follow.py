"""The log of a training: workers append JSON lines; the driver shows them as progress and sends them to MLflow.

A line has either a `note`, or a `step` with its metrics. `JsonLines` writes the log; `followed` reads it while the
workers run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.files import write_whole
from slowfast_core.progress import Advance, progress

if TYPE_CHECKING:
    from slowfast_core.tracking.runs import Run
    from slowfast_core.tracking.unsent import Point

CHUNK = 1 << 16  # bytes read at a time
POLL_SECONDS = 0.5  # between two reads of the log
RETRY_SECONDS = 15.0  # until the next request after MLflow did not answer
JOIN_SECONDS = 5.0  # longest wait at the end for a request in progress
Send = Callable[[Sequence["Point"]], None]


class JsonLines:
    """Appends JSON lines to a file, or does nothing if not `enabled`.

    Removes the incomplete last line that an earlier process may have left.
    """

    def __init__(self, path: Path, enabled: bool) -> None:
        self.path = path
        self.enabled = enabled
        if enabled and path.exists() and (whole := whole_lines(path)) < path.stat().st_size:
            os.truncate(path, whole)

    def __call__(self, **fields: object) -> None:
        if self.enabled:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")


def whole_lines(path: Path) -> int:
    """Size in bytes of the complete lines of a file; an incomplete last line may follow."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - CHUNK, 0)
            file.seek(start)
            if newline := file.read(end - start).rfind(b"\n") + 1:
                return start + newline
            end = start
    return 0


@contextmanager
def followed(log: Path, steps: int, run: Run) -> Iterator[list[str]]:
    """Show the log as progress and send it to MLflow while the workers run; yield the list of notes found in it.

    MLflow requests have their own thread, because they may block. Points not sent at the end are left to `run.rest`.
    """
    notes: list[str] = []
    stop = threading.Event()
    with progress("train", steps) as advance:
        display = Display(log, run.id, notes, advance)
        delivery = Delivery(log, run.id, run.log_points)
        advance(0, "starting the workers")
        threads = [
            threading.Thread(target=_repeat, args=(display.catch_up, stop, advance), daemon=True),
            threading.Thread(target=_repeat, args=(delivery.catch_up, stop, advance), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield notes
        finally:
            stop.set()
            for thread in threads:
                thread.join(JOIN_SECONDS)
            display.catch_up()
            run.rest.points += delivery.rest()


def _repeat(work: Callable[[], None], stop: threading.Event, advance: Advance) -> None:
    pause = POLL_SECONDS
    while not stop.wait(pause):
        try:
            work()
            pause = POLL_SECONDS
        except Exception as error:  # noqa: BLE001  training must go on without the tracking server
            advance(0, f"MLflow does not answer; the metrics are kept ({type(error).__name__})")
            pause = RETRY_SECONDS


class Tail:
    """Reads new lines of a log, starting after the lines that were already sent to the MLflow run."""

    def __init__(self, log: Path, run_id: str) -> None:
        self.log = log
        self.run_id = run_id
        self.record = log.with_suffix(".sent")
        recorded: Any = json.loads(self.record.read_text(encoding="utf-8")) if self.record.is_file() else {}
        sent = recorded["bytes"] if isinstance(recorded, dict) and recorded.get("run") == run_id else 0
        self.position = min(sent, whole_lines(log) if log.exists() else 0)  # a power cut may have lost sent lines

    def peek(self) -> tuple[list[dict[str, Any]], int]:
        """The new complete lines, and the position after them."""
        if not self.log.exists():
            return [], self.position
        with self.log.open("rb") as file:
            file.seek(self.position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], self.position + len(whole)


class Display(Tail):
    """Shows each new line as progress and collects the notes."""

    def __init__(self, log: Path, run_id: str, notes: list[str], advance: Advance) -> None:
        super().__init__(log, run_id)
        self.notes = notes
        self.advance = advance
        self.step = 0

    def catch_up(self) -> None:
        lines, self.position = self.peek()
        for line in lines:
            if note := line.get("note"):
                self.notes.append(str(note))
                self.advance(0, str(note))
            else:
                self.advance(line["step"] - self.step, f"epoch {line['epoch']:.1f} loss {line['loss']:.3f}")
                self.step = line["step"]


class Delivery(Tail):
    """Sends each line to MLflow once; saves its position next to the log, so that a later process continues there."""

    def __init__(self, log: Path, run_id: str, send: Send) -> None:
        super().__init__(log, run_id)
        self.send = send

    def catch_up(self) -> None:
        lines, position = self.peek()
        if position == self.position:
            return
        self.send(_points(lines))
        self.position = position  # only after success; sending the same points twice does no harm
        write_whole(self.record, json.dumps({"run": self.run_id, "bytes": position}))

    def rest(self) -> list[Point]:
        """Points that may not have been sent."""
        return _points(self.peek()[0])


def _points(lines: Sequence[dict[str, Any]]) -> list[Point]:
    """MLflow points, one for each metric of each line."""
    from slowfast_core.tracking.runs import points_of

    points: list[Point] = []
    for line in lines:
        if "note" in line:
            continue
        numbers = {name: float(value) for name, value in line.items() if name not in ("step", "time")}
        points += points_of(numbers, line["step"], round(1000 * line.get("time", time.time())))
    return points


def last_metrics(log: Path) -> dict[str, float]:
    """Metrics of the last step in the log; empty when the log has no steps (it may have been lost)."""
    steps = [fields for line in log.read_text().splitlines() if "loss" in (fields := json.loads(line))]
    return {name: steps[-1][name] for name in ("loss", "accuracy", "clips_per_second")} if steps else {}
