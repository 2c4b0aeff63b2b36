"""Turns operating-system failures, such as a full disk or a read-only folder, into one-line errors."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.errors import FULL, InputError

# Messages about a full disk from libraries that do not raise OSError: SQLite, Arrow, safetensors, wrapped errors.
FULL_TEXTS = ("database or disk is full", "no space left on device", "disk quota exceeded")
MAKE_ROOM = "free disk space and run again; finished work is kept"
LITTLE_ROOM = 100 << 20  # bytes
FIXES = {
    errno.EACCES: "grant this user access, or choose another --workspace",
    errno.EPERM: "grant this user access, or choose another --workspace",
    errno.EROFS: "choose another --workspace, or mount it writable",
    errno.ENOTDIR: "remove that file, or choose another --workspace",
    errno.EEXIST: "remove that file, or choose another --workspace",
    errno.EISDIR: "remove that folder, or choose another --workspace",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the system's limit of open files",
    errno.EIO: "check the disk (dmesg)",
}


@contextmanager
def machine_failures_in_one_line(*places: Path) -> Iterator[None]:
    """Raise InputError for an operating-system failure inside the block; `places` are the folders it writes to."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if line := explained(error, *places):
            raise line from error
        raise


def explained(error: BaseException, *places: Path) -> InputError | None:
    """Return an InputError if `error` or its cause is an operating-system failure; None for any other failure."""
    if line := full_disk(error, *places):
        return line
    causes = [cause for cause in (error, error.__cause__) if isinstance(cause, OSError) and cause.errno in FIXES]
    if not causes:
        return None
    first = causes[0]
    where = _named(first) or (places[0] if places else Path.cwd())
    return InputError(f"{(first.strerror or str(first)).lower()}", where, FIXES[first.errno or 0])


def full_disk(error: BaseException, *places: Path) -> InputError | None:
    """Return an InputError if `error` reports a full disk; it names the file, or else the fullest of `places`.

    FFmpeg's errors carry an errno, others only quote the system's message. A quoted message may come from another
    machine, such as a tracking server, and counts only if a local disk is nearly full.
    """
    for cause in _chain(error):
        number, text = getattr(cause, "errno", None), str(cause).lower()
        quoted = number is None and any(full in text for full in FULL_TEXTS)
        where = fullest(*places)
        if number in FULL or (quoted and shutil.disk_usage(where).free < LITTLE_ROOM):
            return InputError("no space left on the disk", _named(cause) or where, MAKE_ROOM)
    return None


def without_room(place: Path) -> InputError | None:
    """Return an InputError if the disk of `place` has no free bytes: a process there cannot even report its failure."""
    room = shutil.disk_usage(_existing(place)).free
    return None if room > 0 else InputError("no space left on the disk", place, MAKE_ROOM)


def fullest(*places: Path) -> Path:
    """Return the one of `places` and the temporary directory that has the least free disk space."""
    candidates = [_existing(place) for place in (*places, Path(tempfile.gettempdir()))]
    return min(candidates, key=lambda place: shutil.disk_usage(place).free)


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _named(error: BaseException) -> object:
    """Return the path in the error; for a copy or a rename, which has two, the path that was being written."""
    return getattr(error, "filename2", None) or getattr(error, "filename", None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
