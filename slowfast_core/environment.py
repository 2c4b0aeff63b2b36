"""Failures of the machine, not of the program, as one line: a full disk, a folder that may not be written."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.errors import FULL, InputError

# What libraries say of a full disk where they raise no OSError: SQLite, Arrow, safetensors, those that wrap another.
FULL_TEXTS = ("database or disk is full", "no space left on device", "disk quota exceeded")
MAKE_ROOM = "make room and run again; what is finished is kept"
LITTLE_ROOM = 100 << 20  # bytes
FIXES = {
    errno.EACCES: "give this user the right to it, or choose another --workspace",
    errno.EPERM: "give this user the right to it, or choose another --workspace",
    errno.EROFS: "choose another --workspace, or mount it writable",
    errno.ENOTDIR: "remove that file, or choose another --workspace",
    errno.EEXIST: "remove that file, or choose another --workspace",
    errno.EISDIR: "remove that folder, or choose another --workspace",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the system's limit of open files",
    errno.EIO: "look at the disk (dmesg)",
}


@contextmanager
def machine_failures_in_one_line(*places: Path) -> Iterator[None]:
    """Raise InputError for a failure of the machine while work is done in `places`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if line := explained(error, *places):
            raise line from error
        raise


def explained(error: BaseException, *places: Path) -> InputError | None:
    """The line for a failure of the machine, `error` or what it came from; None for any other failure."""
    if line := full_disk(error, *places):
        return line
    causes = [cause for cause in (error, error.__cause__) if isinstance(cause, OSError) and cause.errno in FIXES]
    if not causes:
        return None
    first = causes[0]
    where = _named(first) or (places[0] if places else Path.cwd())
    return InputError(f"{(first.strerror or str(first)).lower()}", where, FIXES[first.errno or 0])


def full_disk(error: BaseException, *places: Path) -> InputError | None:
    """The line for a disk without room, which names the file, or else the fullest of `places`.

    FFmpeg's errors have the system's number, others quote its text. A quoted text may be of another machine, such as
    a tracking server: it counts only where a disk here is full.
    """
    for cause in _chain(error):
        number, text = getattr(cause, "errno", None), str(cause).lower()
        quoted = number is None and any(full in text for full in FULL_TEXTS)
        where = fullest(*places)
        if number in FULL or (quoted and shutil.disk_usage(where).free < LITTLE_ROOM):
            return InputError("no space left on the disk", _named(cause) or where, MAKE_ROOM)
    return None


def without_room(place: Path) -> InputError | None:
    """The line for a disk so full that a process there could not even report why it ended."""
    room = shutil.disk_usage(_existing(place)).free
    return None if room > 0 else InputError("no space left on the disk", place, MAKE_ROOM)


def fullest(*places: Path) -> Path:
    """Of the places and the folder for temporary files, the one whose disk has the least room."""
    candidates = [_existing(place) for place in (*places, Path(tempfile.gettempdir()))]
    return min(candidates, key=lambda place: shutil.disk_usage(place).free)


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _named(error: BaseException) -> object:
    """The path in the error. Of two, of a copy or a rename, the second is the one that was to be written."""
    return getattr(error, "filename2", None) or getattr(error, "filename", None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
