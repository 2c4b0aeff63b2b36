"""`slowfast pipeline compile --explain`: what each task asks of the cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def explained(tmp_path: Path, *options: str) -> str:
    slowfast, cluster = Path(sys.executable).with_name("slowfast"), HERE / "cluster.yaml"
    gpu = ("--set", "compute.gpus_per_worker=1")
    command = [slowfast, "pipeline", "compile", HERE.parent / "tiny.yaml", "--cluster", cluster, *gpu, *options]
    ran = subprocess.run([*map(str, command), "--explain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not list(tmp_path.iterdir())
    return ran.stdout


def test_the_table_fits_80_columns_and_lists_tasks_in_their_order(tmp_path: Path) -> None:
    header, *rows, cpu, gpu = explained(tmp_path).splitlines()
    assert cpu.startswith("cpu: registry.example.org/slowfast-cpu@sha256:")
    assert gpu.startswith("gpu: registry.example.org/slowfast-gpu@sha256:")
    assert header.split() == ["task", "image", "CPU", "memory", "GPU", "tries", "hours", "cache", "secrets"]
    assert all(len(row) <= 80 for row in rows)
    tasks = [row.split()[0] for row in rows]
    assert len(tasks) == 20
    order = ["apply-parameters", "ingest", "validate", "extract", "check-training", "train", "select-model", "evaluate"]
    assert [task for task in tasks if task in order] == order
    assert tasks[-1] == "close-runs"


@pytest.mark.parametrize(
    ("task", "needs"),
    [
        ("train", {"cpu": "3", "memory": "21G", "gpu": 1, "attempts": 4, "hours": 240, "cached": False}),
        ("evaluate", {"cpu": "4", "memory": "24G", "gpu": 1, "attempts": 2, "hours": 6, "cached": True}),
        ("ingest", {"cpu": "2", "memory": "4G", "gpu": 0, "attempts": 4, "hours": 48, "cached": True}),
    ],
)
def test_a_program_reads_the_same_as_json(task: str, needs: dict[str, object], tmp_path: Path) -> None:
    rows = {row["task"]: row for row in json.loads(explained(tmp_path, "--json"))}
    assert {key: rows[task][key] for key in needs} == needs
    assert rows["extract"]["secrets"] == ["store", "ray"]
