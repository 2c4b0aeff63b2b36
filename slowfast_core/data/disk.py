"""Errors of the file system while objects are copied or clips are written, as one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.errors import FULL, InputError


@contextmanager
def disk_in_one_line(where: str, target: Path) -> Iterator[None]:
    """Raise failures of the file system as InputError; `where` names the object, `target` is the file to write."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            mend = "free some, or choose another --workspace; a rerun goes on from the finished files"
            raise InputError(f"no space left on the disk: {error.strerror}", target, mend) from None
        what = f"cannot read or write {error.filename or 'the file'}: {error.strerror or error}"
        raise InputError(what, where, "mend the folder or the file") from None


@contextmanager
def full_disk_in_one_line(where: Path) -> Iterator[None]:
    """Of writing the clip store, by FFmpeg too: a disk that is full, or a quota used up, told as InputError."""
    try:
        yield
    except Exception as error:
        # FFmpeg's errors are not all OSErrors, but all have their number.
        if getattr(error, "errno", None) not in FULL:
            raise
        what = f"cannot write the clip store: {str(getattr(error, 'strerror', error)).lower()}"
        raise InputError(what, where, "make room, then extract again: what is finished is kept") from None


def require_space(folder: Path, needed: int) -> None:
    """Refuse at once what cannot fit."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        what = f"no space left on the disk for {needed / 1e9:.1f} GB: {free / 1e9:.1f} GB are free"
        raise InputError(what, folder, "free some, or choose another --workspace")
