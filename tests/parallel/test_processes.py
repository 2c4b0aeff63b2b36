from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from slowfast_core.parallel.processes import Failed, restart_time_limit, run_isolated


def behave(how: str) -> str:
    if how == "hang":
        time.sleep(60)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "grow":
        kept = [b"x" * 2**24 for _ in range(200) if not time.sleep(0.02)]
        return f"{len(kept)} kept"
    if how == "progress":
        for _ in range(3):
            time.sleep(1.2)
            restart_time_limit()
    if how == "raise":
        raise ValueError("bad\nvalue")
    return how.upper()


def test_each_item_has_its_own_fate() -> None:
    items = ["a", "hang", "b", "crash", "c", "raise", "d"]
    outcomes = dict(run_isolated(behave, items, workers=2, limit_seconds=2))
    assert outcomes == {
        "a": "A",
        "b": "B",
        "c": "C",
        "d": "D",
        "hang": Failed("took longer than 2 s"),
        "crash": Failed("the decoder crashed (SIGSEGV)"),
        "raise": Failed("bad value"),
    }


def test_an_item_that_gets_on_may_take_longer_than_the_limit() -> None:
    outcomes = dict(run_isolated(behave, ["progress", "hang", "a"], workers=2, limit_seconds=2))
    assert outcomes == {"progress": "PROGRESS", "a": "A", "hang": Failed("took longer than 2 s")}


def test_a_crash_is_distinguished_from_a_limit() -> None:
    outcomes = dict(run_isolated(behave, ["crash", "hang"], workers=2, limit_seconds=1))
    assert {how: failed.crashed for how, failed in outcomes.items()} == {"crash": True, "hang": False}


def test_memory_has_a_limit() -> None:
    outcomes = dict(run_isolated(behave, ["a", "grow", "b"], workers=2, limit_mb=500))
    assert outcomes == {"a": "A", "b": "B", "grow": Failed("took more than 500 MB of memory")}


def test_a_worker_that_cannot_start_is_no_failed_item(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_in_the_parent")
    exec("def work(item): return item", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(RuntimeError, match="could not start"):
        list(run_isolated(module.work, ["a"]))


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys; from slowfast_core.parallel.processes import run_isolated\n"
        "from test_processes import note_and_sleep\n"
        f"list(run_isolated(note_and_sleep, [{str(tmp_path / 'pid')!r}], limit_seconds=5))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    worker = Path("/proc") / (tmp_path / "pid").read_text()
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists()


def note_and_sleep(path: str) -> None:
    temporary = Path(f"{path}.new")
    temporary.write_text(str(os.getpid()))
    temporary.rename(path)
    time.sleep(1)
