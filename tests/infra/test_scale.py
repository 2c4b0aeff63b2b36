"""docs/scale.md shows the output of its script, and the script computes the right figures."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.kubernetes.settings import NEEDS

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
    for number in ("39.48", "2.55", "4.08", "9.45", "| 320 |", "1.63", "1.05", "1.59", "1.39", "1.56", "1.31"):
        assert number in page, number


def _rows(*arguments: str) -> dict[str, str]:
    """The cells of the first column of numbers, by the names of the rows."""
    lines = [line.split("|") for line in _scale(*arguments).splitlines()]
    return {cells[1].strip(): cells[2].strip() for cells in lines if len(cells) == 4}


def test_a_slow_volume_slows_the_training() -> None:
    """A clip takes 3 x 2 x 50.31 GFLOP, and 76 of the 300 frames of a video of 1.8 x 1.71 x 1.39 MB."""
    rows = _rows("--gpus", "8", "--gpu-tflops", "30.186", "--volume-gb", "0.43355")
    assert rows["clips/s"] == "800"
    assert rows["GB/s from the shared volume"] == "0.87"
    assert rows["slowed by"] == "the shared volume, to 50%"
    assert rows["hours for 196 epochs"] == "32.7", "196 x 240,000 clips at 400 a second"


def _with_store(folder: Path, lines: int) -> str:
    """A recipe whose store has this short side."""
    recipe = folder / f"{lines}.yaml"
    text = f"name: any\nextends: kinetics400/slowfast_4x16_r50\ndata: {{store: {{short_side: {lines}}}}}\n"
    recipe.write_text(text, encoding="utf-8")
    return str(recipe)


def test_the_figures_are_those_of_the_store_of_the_recipe(tmp_path: Path) -> None:
    low, tall = (_rows("--gpus", "8", "--recipe", _with_store(tmp_path, lines)) for lines in (256, 320))
    assert (low["decode cores"], tall["decode cores"]) == ("79", "125"), "1.59 times the decoding"
    assert [each["clip store"].partition(";")[0] for each in (low, tall)] == ["800 GB", "1,112 GB"]
    own = _rows("--gpus", "8", "--recipe", "kinetics400/slowfast_4x16_r50")
    assert own["decode cores"] == tall["decode cores"], "the recipe's own store has 320"
    with pytest.raises(subprocess.CalledProcessError) as error:
        _scale("--recipe", _with_store(tmp_path, 288))
    assert "no store with 288 lines was measured" in error.value.stderr


def test_evaluation_uses_the_pod_of_the_stage() -> None:
    """20,000 videos of 30 views with 2 x 65.71 GFLOP each; 4 cores that each load 0.62 x 9.45 / 1.59 videos/s."""
    assert NEEDS["evaluate"].cpu == 4
    row = "evaluation on one GPU of one pod, 30 views"
    assert _rows("--gpus", "8")[row] == "33 min; the GPU is the bottleneck"
    assert _rows("--gpus", "8", "--gpu-tflops", "1000")[row] == "23 min; decoding is the bottleneck"
