"""Progress is shown as a bar on a terminal, as lines elsewhere, and as events in a file."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from slowfast_core.progress import PROGRESS_FILE, bar, displayed, progress
from slowfast_core.verbosity import QUIET, VARIABLE


@pytest.mark.parametrize(("unit", "shown"), [("items", "1500000/3000000"), ("bytes", "1.5/3.0 MB")])
def test_a_bar_counts_items_or_bytes(unit: str, shown: str) -> None:
    screen = io.StringIO()
    with bar(Console(file=screen, force_terminal=True, width=120)) as display:
        display.update(display.add_task("ingest", total=3_000_000, note="7 of 9 files", unit=unit), advance=1_500_000)
    assert shown in screen.getvalue()
    assert "7 of 9 files" in screen.getvalue()


def test_without_a_terminal_a_line_is_printed_at_intervals() -> None:
    screen = io.StringIO()
    with displayed(Console(file=screen, force_terminal=False, width=40), every=0.2) as tasks:
        task = tasks.add_task("tiny train", total=1200, note="", unit="items")
        for _ in range(2):
            time.sleep(0.05)
            tasks.update(task, advance=270, note="epoch 4.5 loss 2.123")
        time.sleep(0.5)
    first, second, *_ = screen.getvalue().splitlines()
    pattern = r"tiny train: 45 % \(540/1,200\), \d+\.\d\d/s, ETA \d:\d\d:\d\d, epoch 4\.5 loss 2\.123"
    assert re.fullmatch(pattern, first)
    assert re.fullmatch(pattern, second)  # without any progress in between


def test_a_line_counts_bytes() -> None:
    screen = io.StringIO()
    with displayed(Console(file=screen, force_terminal=False), every=0.05) as tasks:
        tasks.update(tasks.add_task("ingest", total=3_000_000, note="", unit="bytes"), advance=1_500_000)
        time.sleep(0.3)
    assert screen.getvalue().startswith("ingest: 50 % (1.5 MB/3.0 MB)\n")


def test_events_go_to_the_file_and_lines_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "events"))
    monkeypatch.setattr("slowfast_core.progress.LINE_SECONDS", 0.05)
    for quiet in (False, True):
        if quiet:
            monkeypatch.setenv(VARIABLE, QUIET)
        with progress("evaluate", 4) as advance:
            advance(1, "a.mp4")
            time.sleep(0.3)
        assert ("evaluate: 25 % (1/4), a.mp4" in capfd.readouterr().err) != quiet
    lines = (tmp_path / "events").read_text().splitlines()
    event = {"stage": "evaluate", "total": 4, "unit": "items", "done": 1.0, "note": "a.mp4"}
    assert [json.loads(line) for line in lines] == [event, event]
