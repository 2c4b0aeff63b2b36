"""Following a training from its driver: the workers' log becomes a progress bar and curves in MLflow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.files import write_whole
from slowfast_core.progress import Advance, progress
from slowfast_core.training.log import whole_lines

Send = Callable[[Mapping[str, float], int], None]  # metrics, step


@contextmanager
def followed(log: Path, steps: int, send: Send) -> Iterator[list[str]]:
    """While the workers run, show their log as progress and send it to MLflow; yield the list of notes found in it."""
    notes: list[str] = []
    stop = threading.Event()
    with progress("train", steps) as advance:
        follower = Follower(log, notes, send, advance)
        advance(0, "starting the workers")

        def watch() -> None:
            while not stop.wait(0.5):
                try:
                    follower.catch_up()
                except Exception as error:  # noqa: BLE001  the tracking server is away: the last call tries once more
                    advance(0, f"cannot log: {error}")

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield notes
        finally:
            stop.set()
            thread.join()
        follower.catch_up()


class Follower:
    """Sends each line of the log once. How far it came is kept beside the log, for the next process."""

    def __init__(self, log: Path, notes: list[str], send: Send, advance: Advance) -> None:
        self.log, self.notes, self.send, self.advance = log, notes, send, advance
        self.sent_file = log.with_suffix(".sent")
        self.sent = int(self.sent_file.read_text()) if self.sent_file.exists() else 0
        self.sent = min(self.sent, whole_lines(log) if log.exists() else 0)  # a power cut may have taken lines back
        self.shown = 0

    def catch_up(self) -> None:
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self.sent)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if not whole:
            return
        for line in whole.splitlines(keepends=True):
            self._show(json.loads(line))
            self.sent += len(line)  # line by line: after a failure no line is taken twice
        write_whole(self.sent_file, str(self.sent))

    def _show(self, fields: dict[str, float | str]) -> None:
        if note := fields.get("note"):
            self.notes.append(str(note))
            self.advance(0, str(note))
            return
        numbers = {name: float(value) for name, value in fields.items()}
        step = int(numbers.pop("step"))
        self.send(numbers, step)
        self.advance(step - self.shown, f"epoch {numbers['epoch']:.1f} loss {numbers['loss']:.3f}")
        self.shown = step


def last_metrics(log: Path) -> dict[str, float]:
    """What the last step in the log reached; nothing where a lost log had them all."""
    steps = [fields for line in log.read_text().splitlines() if "loss" in (fields := json.loads(line))]
    return {name: steps[-1][name] for name in ("loss", "accuracy", "clips_per_second")} if steps else {}
