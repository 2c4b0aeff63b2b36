"""Following a training from its driver: the workers' log becomes a progress bar and curves in MLflow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.progress import Advance, progress

Send = Callable[[Mapping[str, float], int], None]  # metrics, step


class Seen:
    """What the driver has read from the workers' log."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.notes: list[str] = []


@contextmanager
def followed(log: Path, steps: int, send: Send) -> Iterator[Seen]:
    """While the workers run, show their log as progress and send it to MLflow."""
    seen, stop = Seen(), threading.Event()
    start = log.stat().st_size if log.exists() else 0
    with progress("train", steps) as advance:
        follow = _follower(log, start, seen, send, advance)

        def watch() -> None:
            while not stop.wait(0.5):
                follow()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join()
            follow()


def _follower(log: Path, start: int, seen: Seen, send: Send, advance: Advance) -> Callable[[], None]:
    position, shown = start, 0

    def follow() -> None:
        nonlocal position, shown
        if not log.exists():
            return
        with log.open("rb") as file:
            file.seek(position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        position += len(whole)
        for line in whole.splitlines():
            fields = json.loads(line)
            if note := fields.get("note"):
                seen.notes.append(note)
                advance(0, note)
                continue
            step = fields.pop("step")
            seen.metrics = fields
            send(fields, step)
            advance(step - shown, f"epoch {fields['epoch']:.1f} loss {fields['loss']:.3f}")
            shown = step

    return follow
