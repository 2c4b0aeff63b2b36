"""Of simultaneous registrations the best becomes champion, and each decision is correct and recorded."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from slowfast_core.tracking.runs import connect
from slowfast_core.workspace import Workspace

SCRIPT = Path(__file__).with_name("simultaneous.py")


def run_rounds(root: Path, database: Path, rounds: int, processes: int, *uri: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), str(root), str(database), str(rounds), str(processes), *uri]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]  # MLflow prints too


def check(found: dict[str, Any], processes: int) -> None:
    """Check that the decisions equal those of the same registrations one after another."""
    assert len(found["versions"]) == processes
    best, champion = 0.0, 0
    for number, version in enumerate(found["versions"], 1):
        metric = float(version["metric_top1"])
        if metric > best:
            reason = f"{metric:.4f} beats the champion's {best:.4f}" if best else "no champion before"
            assert version["decision"] == "champion"
            assert version["decision_reason"].endswith(reason)
            best, champion = metric, number
        else:
            assert version["decision"] == "challenger"
            assert version["decision_reason"].endswith(f"{metric:.4f} does not beat the champion's {best:.4f}")
    assert found["aliases"] == {"champion": champion, "challenger": processes}
    assert found["tags"] == {}  # no claims are left


def test_a_database_is_opened_while_another_process_writes(tmp_path: Path, database: Path) -> None:
    """The write takes longer than the 5 s that SQLite waits by default."""
    at = Workspace(tmp_path)
    shutil.copy(database, tmp_path)
    writer = sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(7, writer.rollback)
    release.start()
    assert len(connect(at.tracking_uri).search_experiments()) == 1
    release.join()


@pytest.mark.parametrize(
    ("rounds", "processes"),
    [(1, 4), pytest.param(50, 8, marks=[pytest.mark.exhaustive, pytest.mark.timeout(7200)])],
)
def test_the_best_becomes_champion_in_sqlite(tmp_path: Path, database: Path, rounds: int, processes: int) -> None:
    found = run_rounds(tmp_path / "rounds", database, rounds, processes)
    assert len(found) == rounds
    for each in found:
        check(each, processes)
