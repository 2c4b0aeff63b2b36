"""Stages run once for the same inputs, publish atomically, resume after SIGKILL, and run in one process at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast_core.errors import InputError
from slowfast_core.once import StageResult, read_result, run_once


class Work:
    """Writes `text` to out.txt and records the files that each partial folder contained."""

    def __init__(self, text: str = "made") -> None:
        self.text = text
        self.found: list[list[str]] = []

    def __call__(self, partial: Path) -> dict[str, Any]:
        self.found.append(sorted(path.name for path in partial.iterdir()))
        (partial / "out.txt").write_text(self.text)
        return {"outputs": {"text": "out.txt"}, "summary": "made it", "digest": self.text, "metrics": {"n": 1}}


def test_the_same_inputs_run_once(tmp_path: Path) -> None:
    work = Work()
    first = run_once("extract", tmp_path / "out", {"a": 1, "b": [2]}, work)
    again = run_once("extract", tmp_path / "out", {"b": [2], "a": 1}, work)
    assert len(work.found) == 1
    assert (first.status, again.status) == ("done", "unchanged")
    assert again == first.model_copy(update={"status": "unchanged"})
    assert first.outputs == {"text": str(tmp_path / "out" / "out.txt")}
    assert (first.stage, first.digest, first.summary, first.metrics) == ("extract", "made", "made it", {"n": 1})
    assert read_result(tmp_path / "out") == again


@pytest.mark.parametrize("inputs", [{"a": 2}, {"a": 1, "b": None}, {}, {"a": "1"}])
def test_other_inputs_run_again_in_an_empty_folder(tmp_path: Path, inputs: dict[str, Any]) -> None:
    def before(partial: Path) -> dict[str, Any]:
        (partial / "stray.txt").touch()
        return Work("old")(partial)

    run_once("extract", tmp_path / "out", {"a": 1}, before)
    work = Work("new")
    assert run_once("extract", tmp_path / "out", inputs, work).status == "done"
    assert work.found == [["inputs.json", "inputs.sha256"]]
    assert (tmp_path / "out" / "out.txt").read_text() == "new"
    assert not (tmp_path / "out" / "stray.txt").exists()


def test_a_failure_keeps_the_old_output_and_the_next_call_resumes(tmp_path: Path) -> None:
    run_once("extract", tmp_path / "out", {"a": 1}, Work("old"))

    def fail(partial: Path) -> dict[str, Any]:
        (partial / "half.txt").write_text("half")
        raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        run_once("extract", tmp_path / "out", {"a": 2}, fail)
    assert (tmp_path / "out" / "out.txt").read_text() == "old"
    assert read_result(tmp_path / "out").digest == "old"
    work = Work("new")
    run_once("extract", tmp_path / "out", {"a": 2}, work)
    assert work.found == [["half.txt", "inputs.json", "inputs.sha256"]]
    assert read_result(tmp_path / "out").digest == "new"


def test_a_partial_folder_with_other_inputs_is_cleared(tmp_path: Path) -> None:
    def fail(partial: Path) -> dict[str, Any]:
        (partial / "half.txt").write_text("half")
        raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        run_once("extract", tmp_path / "out", {"a": 1}, fail)
    work = Work()
    run_once("extract", tmp_path / "out", {"a": 2}, work)
    assert work.found == [["inputs.json", "inputs.sha256"]]


def test_salvaging_work_gets_a_partial_folder_with_other_inputs(tmp_path: Path) -> None:
    """The partial folder is finished but not published, as after a kill just before the rename."""
    run_once("extract", tmp_path / "out", {"a": 1}, Work("old"))
    (tmp_path / "out").rename(tmp_path / ".out.partial")
    work = Work("new")
    run_once("extract", tmp_path / "out", {"a": 2}, work, salvages=True)
    assert work.found == [["inputs.json", "inputs.sha256", "out.txt"]]
    assert run_once("extract", tmp_path / "out", {"a": 2}, work, salvages=True).status == "unchanged"
    assert run_once("extract", tmp_path / "out", {"a": 1}, work, salvages=True).status == "done"


KILLED = """
import sys, time
from pathlib import Path
from slowfast_core import once as stage

def work(partial):
    (partial / "half.txt").write_text("half")
    print("working", flush=True)
    time.sleep(600)

def published(folder, status):
    print("published", flush=True)
    time.sleep(600)

if sys.argv[2] == "in work":
    stage.run_once("extract", Path(sys.argv[1]), {"a": 2}, work)
else:  # everything is written, but not yet renamed
    real = Path.rename
    def rename(path, target):
        if target.name == "out":
            print("publishing", flush=True)
            time.sleep(600)
        return real(path, target)
    Path.rename = rename
    def make(partial):
        (partial / "out.txt").write_text("new")
        return {"outputs": {"text": "out.txt"}, "digest": "new"}
    stage.run_once("extract", Path(sys.argv[1]), {"a": 2}, make)
"""


@pytest.fixture
def started(tmp_path: Path) -> Any:
    """Start a process that blocks inside the stage; it is killed at the end of the test at the latest."""
    running: list[subprocess.Popen[str]] = []

    def start(where: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), where]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() in ("working", "publishing")
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


Start = Callable[[str], "subprocess.Popen[str]"]


def test_after_a_kill_during_work_the_next_call_gets_the_same_folder(tmp_path: Path, started: Start) -> None:
    run_once("extract", tmp_path / "out", {"a": 1}, Work("old"))
    process = started("in work")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "out" / "out.txt").read_text() == "old"
    work = Work("new")
    assert run_once("extract", tmp_path / "out", {"a": 2}, work).status == "done"
    assert work.found == [["half.txt", "inputs.json", "inputs.sha256"]]
    assert (tmp_path / "out" / "half.txt").read_text() == "half"


def test_after_a_kill_during_publishing_the_next_call_only_publishes(tmp_path: Path, started: Start) -> None:
    run_once("extract", tmp_path / "out", {"a": 1}, Work("old"))
    process = started("in publishing")
    process.send_signal(signal.SIGKILL)
    process.wait()
    work = Work("again")
    assert run_once("extract", tmp_path / "out", {"a": 2}, work).status == "done"
    assert work.found == []
    assert (tmp_path / "out" / "out.txt").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", ".out.readers", "out"]


def test_a_second_process_on_the_same_stage_is_refused(tmp_path: Path, started: Start) -> None:
    process = started("in work")
    with pytest.raises(InputError, match="another process is working on this stage"):
        run_once("extract", tmp_path / "out", {"a": 1}, Work())
    run_once("extract", tmp_path / "other", {"a": 1}, Work())  # another stage is free
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run_once("extract", tmp_path / "out", {"a": 1}, Work()).status == "done"


@pytest.mark.parametrize("record", ["", "{", "[]", '{"stage": "extract"}'])
def test_a_damaged_record_is_not_a_result(tmp_path: Path, record: str) -> None:
    run_once("extract", tmp_path / "out", {"a": 1}, Work())
    (tmp_path / "out" / "stage.json").write_text(record)
    with pytest.raises(InputError, match="has not been run"):
        read_result(tmp_path / "out")
    assert run_once("extract", tmp_path / "out", {"a": 1}, Work()).status == "done"
    assert read_result(tmp_path / "out").digest == "made"


def test_a_stage_that_was_not_run_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stage 'out' has not been run"):
        read_result(tmp_path / "out")


def test_paths_of_a_moved_output_are_updated(tmp_path: Path) -> None:
    run_once("extract", tmp_path / "out", {"a": 1}, Work())
    (tmp_path / "out").rename(tmp_path / "moved")
    assert read_result(tmp_path / "moved").outputs == {"text": str(tmp_path / "moved" / "out.txt")}


def test_the_json_of_a_result_has_the_documented_keys(tmp_path: Path) -> None:
    fields = json.loads(run_once("extract", tmp_path / "out", {}, Work()).model_dump_json())
    assert {"stage", "status", "seconds", "outputs", "weights_digest", "data_version", "metrics"} <= set(fields)
    assert StageResult(**fields).digest == "made"
