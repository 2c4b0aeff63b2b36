"""`slowfast report` makes the page and the metrics from predictions, and compares two models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from predicted import classified

from slowfast_core.evaluation.operating_points import read_operating_points
from slowfast_core.evaluation.predictions import write_predictions
from slowfast_core.evaluation.report import write_results

CLASSES = list("abcdef")


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("slowfast")), "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def evaluated(folder: Path, advantage: float, data_version: str = "d41d8.dir") -> Path:
    """The folder of an evaluation of 60 videos; the true class is more probable by `advantage`."""
    folder.mkdir()
    scores = np.random.default_rng(0).random((60, 6))
    scores[np.arange(60), np.arange(60) % 6] += advantage
    scores /= scores.sum(axis=1, keepdims=True)
    predictions = classified(scores, [[n % 6] for n in range(60)], CLASSES, data_version=data_version)
    write_predictions(folder / "predictions.parquet", predictions)
    write_results(folder, predictions)
    return folder


def test_the_files_are_those_of_the_evaluation(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "ours", 0.5)
    done = report(folder / "predictions.parquet", "--output", tmp_path / "new" / "again")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("metrics.json", "report.html"):
        assert (tmp_path / "new" / "again" / name).read_bytes() == (folder / name).read_bytes()
    metrics = json.loads((folder / "metrics.json").read_text())
    (top1,) = [line for line in done.stdout.splitlines() if line.strip().startswith("top1")]
    low, high = 100 * metrics["top1_low"], 100 * metrics["top1_high"]
    assert top1.split() == ["top1", f"{100 * metrics['top1']:.1f}", "%", f"{low:.1f}", "to", f"{high:.1f}"]
    assert "fixed" not in done.stdout


def test_a_comparison_is_printed_and_added_to_the_page(tmp_path: Path) -> None:
    ours, other = evaluated(tmp_path / "ours", 0.5), evaluated(tmp_path / "other", 0.2)
    metrics = (ours / "metrics.json").read_bytes()
    done = report(ours, "--against", other)
    assert (done.returncode, done.stderr) == (0, "")
    assert "clips fixed, 0 broken (McNemar's exact test: p = " in done.stdout
    assert max(map(len, done.stdout.splitlines()[:8])) <= 80
    assert (ours / "metrics.json").read_bytes() == metrics
    assert "<h2>Comparison</h2>" in (ours / "report.html").read_text()
    printed = json.loads(report(ours, "--against", other, "--json").stdout)
    assert printed["metrics"].items() <= json.loads(metrics).items()
    comparison = printed["comparison"]
    top1 = comparison["metrics"][0]
    assert top1["difference"] == pytest.approx((len(comparison["fixed"]) - len(comparison["broken"])) / 60)
    assert top1["low"] < top1["difference"] < top1["high"]
    assert f"p = {comparison['p_value']:.3g}" in done.stdout
    assert Path(printed["outputs"]["report"]) == ours / "report.html"


def test_operating_points_are_written_and_printed(tmp_path: Path) -> None:
    ours = evaluated(tmp_path / "ours", 0.5)
    done = report(ours, "--precision", "0.8")
    assert (done.returncode, done.stderr) == (0, "")
    points = read_operating_points(ours / "operating_points.json")
    assert points.chosen_precision == 0.8
    assert [point.name for point in points.classes] == CLASSES
    assert f"{100 * points.coverage:.1f} % of the videos (cross-validated)" in done.stdout
    printed = json.loads(report(ours, "--precision", "0.8", "--json").stdout)
    assert printed["operating_points"] == json.loads((ours / "operating_points.json").read_text())
    assert report(ours, "--precision", "2").returncode == 2


def test_missing_or_other_predictions_are_refused_in_one_line(tmp_path: Path) -> None:
    ours = evaluated(tmp_path / "ours", 0.5)
    for arguments, what in [
        ((tmp_path,), "no predictions"),
        ((ours / "metrics.json",), "not predictions"),
        ((ours, "--against", evaluated(tmp_path / "newer", 0.5, "e1.dir")), "another data version: e1.dir"),
    ]:
        done = report(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert what in line
