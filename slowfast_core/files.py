"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.errors import FULL, InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success its bytes are on disk and it takes the name `path`."""
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
    """As ETags and DVC have it; it guards against damage, not against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused with InputError when it leaves `root` (absolute, `..`, or through a link)."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InputError(f"path {relative!r} leaves the data root", root, "use paths below the root, without '..'")
    return path


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


@contextmanager
def on_sigterm(act: Callable[[], object]) -> Iterator[None]:
    """Within the block SIGTERM calls `act`. In other threads than the main one, whose the signals are, it does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
