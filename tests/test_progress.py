"""The progress bar."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from slowfast_core.progress import bar


@pytest.mark.parametrize(("unit", "shown"), [("items", "1500000/3000000"), ("bytes", "1.5/3.0 MB")])
def test_a_bar_counts_items_or_bytes(unit: str, shown: str) -> None:
    screen = io.StringIO()
    with bar(Console(file=screen, force_terminal=True, width=120)) as display:
        display.update(display.add_task("ingest", total=3_000_000, note="7 of 9 files", unit=unit), advance=1_500_000)
    assert shown in screen.getvalue()
    assert "7 of 9 files" in screen.getvalue()
