"""A temporary folder that lives as long as one process, and is shared with all the processes it starts.

Temporary files, Ray's session and its processes are removed at the end of the block. Leftovers of a killed process are
removed at the next start: the lock of its folder is free, and its child processes have the folder in their environment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.errors import InputError
from slowfast_core.files import locked

VARIABLE = "SLOWFAST_SCRATCH"  # environment variable of all child processes: path of the scratch folder
LONGEST = 20  # characters in the temporary directory: socket paths of a Ray session inside it are limited to 107
END_SECONDS = 30.0  # time for a process to disappear after SIGKILL; longer means that the system hangs


@contextmanager
def scratch(owner: Path) -> Iterator[Path]:
    """Create an empty folder and make it the temporary directory of this process and of the processes it starts.

    First removes what a killed process left behind for `owner` or a path below it: its processes, then its files.
    Abandoned folders of other owners are removed only if none of their processes is alive.
    """
    root = _root()
    with locked(root / ".lock"):
        _end_abandoned(root, owner)
        folder = root / uuid.uuid4().hex[:8]
        lock = folder.with_suffix(".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(owner))
        lock.flush()
        folder.mkdir()
    try:
        with _temporary_directory(folder):
            yield folder
    finally:
        with locked(root / ".lock"):
            _end(folder)
            lock.close()


def _root() -> Path:
    """Return this user's root folder, the same for nested calls. Raises InputError if another user owns it."""
    if outer := os.environ.get(VARIABLE):
        root = Path(outer).parent
    else:
        base = tempfile.gettempdir()
        root = Path(base if len(base) <= LONGEST else "/tmp") / f"slowfast-{os.geteuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.geteuid():
        raise InputError("the temporary directory belongs to another user", root, "remove it, or set TMPDIR")
    return root


def _end_abandoned(root: Path, owner: Path) -> None:
    """Remove abandoned folders until none is left: a folder may be locked by a process of another folder."""
    found = True
    while found:
        found = False
        for lock in root.glob("[0-9a-f]*.lock"):
            folder = lock.with_suffix("")
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its process is alive
                if Path(file.read()).is_relative_to(owner) or not processes_of(folder):
                    _end(folder)
                    found = True


def processes_of(folder: Path) -> list[int]:
    """Return the ids of this user's other processes that were started with `folder` as their scratch folder."""
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in numbers if pid != os.getpid() and _carries(pid, folder)]


def _carries(pid: int, folder: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # the process has ended or belongs to another user
        return False
    return f"{VARIABLE}={folder}".encode() in environment.split(b"\0")


def _end(folder: Path) -> None:
    """Kill the folder's processes, then remove it. Raises InputError if a process does not end."""
    limit = time.monotonic() + END_SECONDS
    while pids := processes_of(folder):
        if time.monotonic() > limit:
            what = f"process {pids[0]} of an earlier run does not end"
            raise InputError(what, folder, "check what blocks the process, or restart the machine")
        for pid in pids:
            _kill(pid, folder)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".lock").unlink(missing_ok=True)


def _kill(pid: int, folder: Path) -> None:
    """Send SIGKILL through a pidfd, because the process id may be reused in the meantime."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _carries(pid, folder):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


@contextmanager
def _temporary_directory(folder: Path) -> Iterator[None]:
    """Set the temporary directory inside the block; clears the directory that `tempfile` has cached."""
    with environment_variables({VARIABLE: str(folder), "TMPDIR": str(folder)}):
        tempfile.tempdir = None
        try:
            yield
        finally:
            tempfile.tempdir = None


@contextmanager
def environment_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
