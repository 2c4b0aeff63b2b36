"""A folder in the system's temporary directory for the time of one process and of all that it starts.

Temporary files, Ray's session and its processes end with the block, and what a killed process left ends at the next
start: its lock is free then, and its processes carry the folder in their environment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.errors import InputError

VARIABLE = "SLOWFAST_SCRATCH"  # environment variable of all that the owner of a folder starts: the folder
LONGEST = 20  # characters of the temporary directory: the sockets of a Ray session below it have at most 107 in all
END_SECONDS = 30.0  # in which a process is gone after SIGKILL, unless the system hangs


@contextmanager
def scratch(owner: Path) -> Iterator[Path]:
    """A new empty folder, and the temporary directory of this process and of those that it starts in the block.

    What was abandoned by a killed process for `owner` or for something below it is ended first: its processes, then its
    files. Of other owners only folders without a living process go.
    """
    root = _root()
    with _locked(root / ".lock"):
        _end_abandoned(root, owner)
        folder = root / uuid.uuid4().hex[:8]
        lock = folder.with_suffix(".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(owner))
        lock.flush()
        folder.mkdir()
    try:
        with _environment(folder):
            yield folder
    finally:
        with _locked(root / ".lock"):
            _end(folder)
            lock.close()


def _root() -> Path:
    """One folder of this user, found by nested calls too. Raises InputError when it is somebody else's."""
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
    """Until there is no more: a folder may be held by a process that only ends with another folder."""
    found = True
    while found:
        found = False
        for lock in root.glob("[0-9a-f]*.lock"):
            folder = lock.with_suffix("")
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its process lives
                if Path(file.read()).is_relative_to(owner) or not processes_of(folder):
                    _end(folder)
                    found = True


def processes_of(folder: Path) -> list[int]:
    """The processes of this user, but for this one, that were started with `folder` as their scratch folder."""
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in numbers if pid != os.getpid() and _carries(pid, folder)]


def _carries(pid: int, folder: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended, or is another user's
        return False
    return f"{VARIABLE}={folder}".encode() in environment.split(b"\0")


def _end(folder: Path) -> None:
    """End the folder's processes, then remove it. Raises InputError when one does not end."""
    limit = time.monotonic() + END_SECONDS
    while pids := processes_of(folder):
        if time.monotonic() > limit:
            what = f"process {pids[0]} of an earlier run does not end"
            raise InputError(what, folder, "find out why, or restart the machine")
        for pid in pids:
            _kill(pid, folder)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".lock").unlink(missing_ok=True)


def _kill(pid: int, folder: Path) -> None:
    """Through a descriptor: another process may get the number meanwhile."""
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
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Python asks for the temporary directory once; it is to ask again."""
    names = (VARIABLE, "TMPDIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(folder)))
    tempfile.tempdir = None
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None
