"""The log of a training: an incomplete line of a killed process is removed, and each line is sent once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from slowfast_core.json_lines import CHUNK, JsonLines
from slowfast_core.progress import progress
from slowfast_core.tracking.unsent import Point
from slowfast_core.training.follow import Delivery, Display, last_metrics

Sent = list[int]
METRICS = {"epoch": 0.5, "loss": 2.0, "accuracy": 0.5, "clips_per_second": 9.0}


def follow(log: Path) -> tuple[Sent, list[str]]:
    """Read the log as a new process does; return the steps that were sent to MLflow, and the notes."""
    steps = Sent()
    with progress("train", 100) as advance:
        display = Display(log, "run", advance)
        display.catch_up()
        Delivery(log, "run", lambda points: steps.extend(steps_of(points)), advance).catch_up()
    return steps, display.notes


def steps_of(points: Sequence[Point]) -> list[int]:
    assert {point.metric for point in points} <= set(METRICS)
    return list(dict.fromkeys(point.step for point in points))


SHORT = """
import resource, signal, sys
from pathlib import Path
from slowfast_core.json_lines import JsonLines

log = JsonLines(Path(sys.argv[1]), enabled=True)
log(step=2, epoch=0.5, loss=2.0, accuracy=0.5, clips_per_second=9.0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
room = log.path.stat().st_size + 20
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
log(step=3, epoch=0.75, loss=1.0, accuracy=0.5, clips_per_second=9.0)
"""


def test_an_incomplete_line_on_a_full_disk(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    JsonLines(log, enabled=True)(step=1, **METRICS)
    ended = subprocess.run([sys.executable, "-c", SHORT, str(log)], capture_output=True, text=True, timeout=120)
    assert "File too large" in ended.stderr
    assert not log.read_bytes().endswith(b"\n")
    assert follow(log) == ([1, 2], [])
    again = JsonLines(log, enabled=True)
    assert log.read_bytes().endswith(b"\n")
    again(note="resumed")
    again(step=3, **METRICS)
    assert follow(log) == ([3], ["resumed"])
    assert follow(log) == ([], [])
    assert last_metrics(log)["loss"] == 2.0
    assert [json.loads(line).get("step") for line in log.read_text().splitlines()] == [1, 2, None, 3]


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_incomplete_lines_of_any_length_are_removed(tmp_path: Path, size: int) -> None:
    log = tmp_path / "samples-1.jsonl"
    log.write_bytes(b"x" * size)
    JsonLines(log, enabled=False)
    assert log.stat().st_size == size  # the log of another worker
    JsonLines(log, enabled=True)
    assert log.read_bytes() == b""
    log.write_bytes(b"{}\n{}\n" + b"x" * size)
    JsonLines(log, enabled=True)
    assert log.read_bytes() == b"{}\n{}\n"


def test_a_log_that_lost_sent_lines_in_a_power_cut(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for step in (1, 2, 3):
        JsonLines(log, enabled=True)(step=step, **METRICS)
    assert follow(log) == ([1, 2, 3], [])
    first, second, _ = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + second[:9])
    steps = Sent()
    with progress("train", 100) as advance:
        delivery = Delivery(log, "run", lambda points: steps.extend(steps_of(points)), advance)
        restarted = JsonLines(log, enabled=True)
        for step in (2, 3, 4):
            restarted(step=step, **METRICS)
        delivery.catch_up()
    assert steps == [2, 3, 4]
