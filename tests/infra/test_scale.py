"""docs/scale.md shows the output of its script, and the script computes the right figures."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _scale(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_page_has_the_output_of_the_script() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in _scale().splitlines() if line not in page]
    assert missing == [], "copy the output of python benchmarks/scale.py into docs/scale.md"


def test_measured_figures_are_in_the_benchmarks() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    if "## Loading" not in page:
        pytest.skip("this tree has no measurements of the loader")
    for number in ("39.48", "2.55", "4.08", "9.45", "| 320 |", "1.63", "1.05"):
        assert number in page, number


def test_a_slow_volume_slows_the_training() -> None:
    """A clip takes 3 x 2 x 50.31 GFLOP, and 76 of the 300 frames of a video of 1.8 x 1.71 MB."""
    figures = ("--gpus", "8", "--gpu-tflops", "30.186", "--volume-gb", "0.3119")
    lines = [line.split("|") for line in _scale(*figures).splitlines()]
    rows = {cells[1].strip(): cells[2].strip() for cells in lines if len(cells) == 4}
    assert rows["clips/s"] == "800"
    assert rows["GB/s from the shared volume"] == "0.62"
    assert rows["slowed by"] == "the shared volume, to 50%"
    assert rows["hours for 196 epochs"] == "32.7", "196 x 240,000 clips at 400 a second"
