"""The scratch folder of a process is removed when the process ends, or when the next one starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slowfast_core.errors import InputError
from slowfast_core.scratch import VARIABLE, processes_of, scratch

# Holds a scratch folder with a file and a process that does not react to SIGTERM, until it is killed.
HOLDER = """
import subprocess, sys, tempfile
from pathlib import Path
from slowfast_core.scratch import scratch
with scratch(Path(sys.argv[1])) as folder:
    Path(tempfile.mkdtemp(), "left").touch()
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 60; done"], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(folder, child.pid, flush=True)
    sys.stdin.read()
"""
StartHolder = Callable[[Path], tuple["subprocess.Popen[str]", Path, int]]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new temporary directory, set after pytest has created its own."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


@pytest.fixture
def start_holder(temporary: Path) -> Iterator[StartHolder]:
    """Start a process that holds a scratch folder for an owner; returns the process, the folder and the child's id."""
    started: list[tuple[subprocess.Popen[str], Path]] = []

    def start(owner: Path) -> tuple[subprocess.Popen[str], Path, int]:
        command = [sys.executable, "-c", HOLDER, str(owner)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        folder, child = process.stdout.readline().split()
        started.append((process, Path(folder)))
        return process, Path(folder), int(child)

    yield start
    for process, folder in started:
        process.kill()
        for pid in processes_of(folder):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def is_alive(pid: int) -> bool:
    """A zombie counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_scratch_folder_is_the_temporary_directory_inside_the_block_and_removed_after_it(
    temporary: Path, tmp_path: Path
) -> None:
    with scratch(tmp_path) as folder:
        assert Path(tempfile.mkdtemp()).parent == folder
        child = subprocess.Popen(["sh", "-c", "mktemp; exec sleep 60"], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert Path(child.stdout.readline().strip()).parent == folder
    assert child.wait(10) == -signal.SIGKILL
    child.stdout.close()
    assert not folder.exists()
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(temporary)
    assert VARIABLE not in os.environ
    assert [path.name for path in temporary.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize("below", ["", "runs/demo"])
def test_leftovers_of_a_killed_process_are_removed_at_the_next_start(
    start_holder: StartHolder, tmp_path: Path, below: str
) -> None:
    process, folder, child = start_holder(tmp_path / below)
    process.kill()
    process.wait()
    assert is_alive(child)
    assert list(folder.rglob("left"))
    with scratch(tmp_path):
        assert not is_alive(child)
        assert not folder.exists()


def test_a_folder_of_a_living_process_is_kept(start_holder: StartHolder, tmp_path: Path) -> None:
    _, folder, child = start_holder(tmp_path)
    with scratch(tmp_path):
        assert is_alive(child)
        assert list(folder.rglob("left"))


def test_leftovers_for_another_owner_are_removed_once_their_processes_are_dead(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    process, folder, child = start_holder(tmp_path / "one")
    process.kill()
    process.wait()
    with scratch(tmp_path / "two"):
        assert is_alive(child)
        assert folder.exists()
    while pids := processes_of(folder):
        os.kill(pids[0], signal.SIGKILL)
    with scratch(tmp_path / "two"):
        assert not folder.exists()


def test_a_process_is_identified_by_its_environment_and_not_by_its_command_line(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    process, folder, _ = start_holder(tmp_path)
    same = subprocess.Popen(["sh", "-c", f"exec sleep 60 # {folder}"], env={**os.environ, VARIABLE: f"{folder}0"})
    process.kill()
    process.wait()
    with scratch(tmp_path):
        assert same.poll() is None
    same.kill()
    same.wait()


def test_nested_scratch_folders_are_siblings_and_end_with_their_own_block(temporary: Path, tmp_path: Path) -> None:
    with scratch(tmp_path) as outer:
        with scratch(tmp_path / "runs") as inner:
            assert inner.parent == outer.parent
            assert tempfile.gettempdir() == str(inner)
        assert not inner.exists()
        assert tempfile.gettempdir() == str(outer)


def test_socket_paths_fit_even_with_a_long_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Ray session adds up to 63 characters; the system allows 107."""
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with scratch(tmp_path) as folder:
        assert len(str(folder)) + 63 <= 107


def test_a_folder_of_another_user_is_refused(temporary: Path, tmp_path: Path) -> None:
    root = temporary / f"slowfast-{os.geteuid()}"
    root.symlink_to(tmp_path)
    with pytest.raises(InputError, match="belongs to another user"), scratch(tmp_path):
        pass
