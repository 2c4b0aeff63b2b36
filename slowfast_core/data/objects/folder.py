"""Object store in a directory."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from slowfast_core.data.objects.object import OnBytes, StoredObject, ignore_bytes
from slowfast_core.data.objects.s3_errors import changed_error
from slowfast_core.errors import InputError
from slowfast_core.files import copy_whole, disk_in_one_line, inside, sha256_of, whole_file


@dataclass(frozen=True)
class Folder:
    """A directory. Links to directories are ignored; fetching a file that links outside the directory is an error."""

    root: str
    workers: int = 8

    @property
    def path(self) -> Path:
        return Path(self.root).expanduser()

    def objects(self, missing_ok: bool = False) -> list[StoredObject]:
        if not self.path.is_dir():
            if missing_ok:
                return []
            raise InputError("no such folder", self.root, "set data.source to a folder or s3://bucket/prefix")
        paths = (Path(folder, name) for folder, _, names in os.walk(self.path) for name in names)
        found = ((path, path.stat()) for path in paths if path.exists())
        return sorted(
            (
                StoredObject(path.relative_to(self.path).as_posix(), status.st_size, _identity(status))
                for path, status in found
                if stat.S_ISREG(status.st_mode)
            ),
            key=lambda item: item.key,
        )

    def fetch(self, item: StoredObject, target: Path, on_bytes: OnBytes = ignore_bytes) -> str:
        source = inside(self.path, item.key)
        with disk_in_one_line(f"{self.root}, {item.key!r}", target), whole_file(target) as temporary:
            shutil.copyfile(source, temporary)
            sha256 = sha256_of(temporary)
            if _identity(source.stat()) != item.identity:
                raise changed_error(f"{self.root}, {item.key!r}")
        on_bytes(item.size)
        return sha256

    def put(self, source: Path, key: str) -> StoredObject:
        target = inside(self.path, key)
        with disk_in_one_line(f"{self.root}, {key!r}", target):
            if not target.is_file() or sha256_of(target) != sha256_of(source):
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_whole(source, target)
            status = target.stat()
        return StoredObject(key, status.st_size, _identity(status))

    def remove(self, key: str) -> None:
        """Remove the file, and its folder if that is empty: buckets have no empty folders."""
        target = inside(self.path, key)
        with disk_in_one_line(f"{self.root}, {key!r}", target):
            target.unlink(missing_ok=True)
            if target.parent != self.path.resolve() and not any(target.parent.iterdir()):
                target.parent.rmdir()


def _identity(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
