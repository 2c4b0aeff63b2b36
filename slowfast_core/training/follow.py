"""Following a training from its driver: the workers' log becomes a progress bar and curves in MLflow."""

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

LOOK_SECONDS = 0.5  # between two looks at the log
AGAIN_SECONDS = 15.0  # until MLflow is tried again when it did not answer
JOIN_SECONDS = 5.0  # at the end, for a request that is under way
Send = Callable[[Sequence["Point"]], None]


@contextmanager
def followed(log: Path, steps: int, run: Run) -> Iterator[list[str]]:
    """While the workers run, show their log as progress and send it to MLflow; yield the list of notes found in it.

    MLflow has its own thread, which may wait for it. What has not been sent at the end is the rest of the run.
    """
    notes: list[str] = []
    stop = threading.Event()
    with progress("train", steps) as advance:
        shown, sent = Display(log, run.id, notes, advance), Delivery(log, run.id, run.log_points)
        advance(0, "starting the workers")
        threads = [
            threading.Thread(target=_repeat, args=(shown.catch_up, stop, advance), daemon=True),
            threading.Thread(target=_repeat, args=(sent.catch_up, stop, advance), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield notes
        finally:
            stop.set()
            for thread in threads:
                thread.join(JOIN_SECONDS)
            shown.catch_up()
            run.rest.points += sent.rest()


def _repeat(work: Callable[[], None], stop: threading.Event, advance: Advance) -> None:
    pause = LOOK_SECONDS
    while not stop.wait(pause):
        try:
            work()
            pause = LOOK_SECONDS
        except Exception as error:  # noqa: BLE001  the tracking server is away, and the training goes on
            advance(0, f"MLflow does not answer; the metrics are kept ({type(error).__name__})")
            pause = AGAIN_SECONDS


class Tail:
    """The lines that come to a log after those that were sent to a run, each once."""

    def __init__(self, log: Path, run_id: str) -> None:
        self.log, self.run_id, self.record = log, run_id, log.with_suffix(".sent")
        recorded: Any = json.loads(self.record.read_text(encoding="utf-8")) if self.record.is_file() else {}
        sent = recorded["bytes"] if isinstance(recorded, dict) and recorded.get("run") == run_id else 0
        self.position = min(sent, whole_lines(log) if log.exists() else 0)  # a power cut may have taken lines back

    def peek(self) -> tuple[list[dict[str, Any]], int]:
        """The new whole lines, and the position after them."""
        if not self.log.exists():
            return [], self.position
        with self.log.open("rb") as file:
            file.seek(self.position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], self.position + len(whole)


class Display(Tail):
    """Shows each line once."""

    def __init__(self, log: Path, run_id: str, notes: list[str], advance: Advance) -> None:
        super().__init__(log, run_id)
        self.notes, self.advance, self.step = notes, advance, 0

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
    """Sends each line once. How far it came is kept beside the log, for the next process."""

    def __init__(self, log: Path, run_id: str, send: Send) -> None:
        super().__init__(log, run_id)
        self.send = send

    def catch_up(self) -> None:
        lines, position = self.peek()
        if position == self.position:
            return
        self.send(_points(lines))
        self.position = position  # only now: after a failure the lines are sent again, and are the same points
        write_whole(self.record, json.dumps({"run": self.run_id, "bytes": position}))

    def rest(self) -> list[Point]:
        """What has not been sent for certain."""
        return _points(self.peek()[0])


def _points(lines: Sequence[dict[str, Any]]) -> list[Point]:
    """One for each number of each line."""
    from slowfast_core.tracking.runs import points_of

    points: list[Point] = []
    for line in lines:
        if "note" in line:
            continue
        numbers = {name: float(value) for name, value in line.items() if name not in ("step", "time")}
        points += points_of(numbers, line["step"], round(1000 * line.get("time", time.time())))
    return points


def last_metrics(log: Path) -> dict[str, float]:
    """What the last step in the log reached; nothing where a lost log had them all."""
    steps = [fields for line in log.read_text().splitlines() if "loss" in (fields := json.loads(line))]
    return {name: steps[-1][name] for name in ("loss", "accuracy", "clips_per_second")} if steps else {}


CHUNK = 1 << 16  # bytes


class JsonLines:
    """A file to which some workers append. What a process before left of its last line is cut off."""

    def __init__(self, path: Path, enabled: bool) -> None:
        self.path, self.enabled = path, enabled
        if enabled and path.exists() and (whole := whole_lines(path)) < path.stat().st_size:
            os.truncate(path, whole)

    def __call__(self, **fields: object) -> None:
        if self.enabled:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")


def whole_lines(path: Path) -> int:
    """How many bytes they are; the rest is the beginning of a line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - CHUNK, 0)
            file.seek(start)
            if newline := file.read(end - start).rfind(b"\n") + 1:
                return start + newline
            end = start
    return 0
