"""Atomic writes, locks, file digests and disk-space checks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.errors import FULL, InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success sync the file to disk and rename it to `path`."""
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_whole(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """MD5, as used by S3 ETags and DVC: it detects corruption, not tampering."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def inside(root: Path, relative: str) -> Path:
    """Return `root / relative`. Raises InputError if it is outside `root` (absolute, `..`, or through a link)."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InputError(f"path {relative!r} leaves the data root", root, "use paths below the root, without '..'")
    return path


@contextmanager
def locked(path: Path, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold a lock on the file `path`, which the system releases when the process dies.

    A `shared` lock may be held by several processes. If it is taken, waits or, if not `wait`, raises BlockingIOError.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("w") as lock:
        fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
        yield


@contextmanager
def disk_in_one_line(where: str, target: Path) -> Iterator[None]:
    """Raise file-system failures as InputError; `where` names the object, `target` is the file being written."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            fix = "free disk space, or choose another --workspace; a rerun keeps the finished files"
            raise InputError(f"no space left on the disk: {error.strerror}", target, fix) from None
        what = f"cannot read or write {error.filename or 'the file'}: {error.strerror or error}"
        raise InputError(what, where, "check the permissions of the folder and the file") from None


@contextmanager
def full_disk_in_one_line(where: Path) -> Iterator[None]:
    """Raise InputError if the disk is full, or a quota exhausted, while the clip store is written."""
    try:
        yield
    except Exception as error:
        # Not all of FFmpeg's errors are OSErrors, but all have an errno.
        if getattr(error, "errno", None) not in FULL:
            raise
        what = f"cannot write the clip store: {str(getattr(error, 'strerror', error)).lower()}"
        raise InputError(what, where, "free disk space, then run extract again; finished clips are kept") from None


def require_space(folder: Path, needed: int) -> None:
    """Raise InputError if the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        what = f"no space left on the disk for {needed / 1e9:.1f} GB: {free / 1e9:.1f} GB are free"
        raise InputError(what, folder, "free disk space, or choose another --workspace")
