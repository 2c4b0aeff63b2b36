"""The log of a training: workers append JSON lines; the driver shows them as progress and sends them to MLflow.

A line has either a `note`, or a `step` with its metrics.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.background import repeated
from slowfast_core.files import write_whole
from slowfast_core.json_lines import Tail, read_lines, whole_lines
from slowfast_core.progress import Advance, progress

if TYPE_CHECKING:
    from slowfast_core.tracking.runs import Run
    from slowfast_core.tracking.unsent import Point

POLL_SECONDS = 0.5  # between two reads of the log
RETRY_SECONDS = 15.0  # until the next request after MLflow did not answer
Send = Callable[[Sequence["Point"]], None]


@contextmanager
def followed(log: Path, steps: int, run: Run) -> Iterator[list[str]]:
    """Show the log as progress and send it to MLflow while the workers run; yield the list of notes found in it.

    MLflow requests have their own thread, because they may block. Points not sent at the end are left to `run.rest`.
    """
    with progress("train", steps) as advance:
        display = Display(log, run.id, advance)
        delivery = Delivery(log, run.id, run.log_points, advance)
        advance(0, "starting the workers")
        try:
            with repeated(display.catch_up, POLL_SECONDS), repeated(delivery.catch_up, POLL_SECONDS):
                yield display.notes
        finally:
            display.catch_up()
            run.rest.points += delivery.rest()


class Display:
    """Shows each new line as progress and collects the notes."""

    def __init__(self, log: Path, run_id: str, advance: Advance) -> None:
        self.tail = Tail(log, _sent_bytes(log, run_id))
        self.advance = advance
        self.notes: list[str] = []
        self.step = 0

    def catch_up(self) -> None:
        for line in self.tail.read():
            if note := line.get("note"):
                self.notes.append(str(note))
                self.advance(0, str(note))
            else:
                self.advance(line["step"] - self.step, f"epoch {line['epoch']:.1f} loss {line['loss']:.3f}")
                self.step = line["step"]


class Delivery:
    """Sends each line to MLflow once; saves its position next to the log, so that a later process continues there."""

    def __init__(self, log: Path, run_id: str, send: Send, advance: Advance) -> None:
        self.tail = Tail(log, _sent_bytes(log, run_id))
        self.run_id = run_id
        self.send = send
        self.advance = advance
        self.pause_until = 0.0

    def catch_up(self) -> None:
        lines, position = self.tail.peek()
        if position == self.tail.position or time.monotonic() < self.pause_until:
            return
        try:
            self.send(_points(lines))
        except Exception as error:  # noqa: BLE001  training must go on without the tracking server
            self.advance(0, f"MLflow does not answer; the metrics are kept ({type(error).__name__})")
            self.pause_until = time.monotonic() + RETRY_SECONDS
            return
        self.tail.position = position  # only after success; sending the same points twice does no harm
        write_whole(_record_of(self.tail.path), json.dumps({"run": self.run_id, "bytes": position}))

    def rest(self) -> list[Point]:
        """Points that may not have been sent."""
        return _points(self.tail.peek()[0])


def _record_of(log: Path) -> Path:
    """The file that records how much of the log was sent to which run."""
    return log.with_suffix(".sent")


def _sent_bytes(log: Path, run_id: str) -> int:
    """Size in bytes of the lines that were already sent to the MLflow run."""
    record = _record_of(log)
    recorded: Any = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    sent: int = recorded["bytes"] if isinstance(recorded, dict) and recorded.get("run") == run_id else 0
    return min(sent, whole_lines(log) if log.exists() else 0)  # a power cut may have lost sent lines


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
    steps = [line for line in read_lines(log) if "loss" in line]
    return {name: steps[-1][name] for name in ("loss", "accuracy", "clips_per_second")} if steps else {}
