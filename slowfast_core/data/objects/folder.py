"""A directory as an object store."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from slowfast_core.data.objects.object import CHUNK, Arrived, StoredObject, nobody, write_chunks
from slowfast_core.errors import InputError
from slowfast_core.files import disk_in_one_line, inside, sha256_of, whole_file


@dataclass(frozen=True)
class Folder:
    """Links to directories are not followed; a file that is a link out of the folder is refused when it is fetched."""

    root: str
    workers: int = 8

    @property
    def path(self) -> Path:
        return Path(self.root).expanduser()

    def objects(self, missing_ok: bool = False) -> list[StoredObject]:
        if not self.path.is_dir():
            if missing_ok:
                return []
            raise InputError("no such folder", self.root, "give data.source a folder or s3://bucket/prefix")
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

    def fetch(self, item: StoredObject, target: Path, arrived: Arrived = nobody) -> str:
        source = inside(self.path, item.key)
        failures = disk_in_one_line(f"{self.root}, {item.key!r}", target)
        with failures, source.open("rb") as file, whole_file(target) as temporary:
            _, sha256, _ = write_chunks(iter(lambda: file.read(CHUNK), b""), temporary)
            if _identity(source.stat()) != item.identity:
                mend = "run again when the source is still"
                raise InputError("it was changed while it was read", f"{self.root}, {item.key!r}", mend)
        arrived(item.size)
        return sha256

    def put(self, source: Path, key: str) -> StoredObject:
        target = inside(self.path, key)
        with disk_in_one_line(f"{self.root}, {key!r}", target):
            if not target.is_file() or sha256_of(target) != sha256_of(source):
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open("rb") as file, whole_file(target) as temporary:
                    write_chunks(iter(lambda: file.read(CHUNK), b""), temporary)
            status = target.stat()
        return StoredObject(key, status.st_size, _identity(status))

    def remove(self, key: str) -> None:
        """A folder that is empty then goes too, as in a bucket."""
        target = inside(self.path, key)
        with disk_in_one_line(f"{self.root}, {key!r}", target):
            target.unlink(missing_ok=True)
            if target.parent != self.path.resolve() and not any(target.parent.iterdir()):
                target.parent.rmdir()


def _identity(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
