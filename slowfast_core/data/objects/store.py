"""The interface of object stores (a directory or `s3://bucket/prefix`), and transfers of many objects."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Protocol

from slowfast_core.data.objects.bucket import Bucket
from slowfast_core.data.objects.folder import Folder
from slowfast_core.data.objects.object import OnBytes, StoredObject, Transfer, ignore_bytes
from slowfast_core.errors import InputError
from slowfast_core.files import disk_in_one_line, inside


class ObjectStore(Protocol):
    """A set of objects below a root, identified by keys."""

    @property
    def root(self) -> str:
        """The address as the user wrote it."""

    @property
    def workers(self) -> int:
        """Number of concurrent transfers."""

    def objects(self, missing_ok: bool = False) -> list[StoredObject]:
        """All objects below the root, sorted by key. Raises InputError if none exist, unless `missing_ok`."""

    def fetch(self, item: StoredObject, target: Path, on_bytes: OnBytes = ignore_bytes) -> str:
        """Write the object to `target` atomically; return its SHA-256. Raises InputError."""

    def put(self, source: Path, key: str) -> StoredObject:
        """Store the file as object `key`, unless that object already has its content. Raises InputError."""

    def remove(self, key: str) -> None:
        """Remove the object `key` if it exists. Raises InputError."""


def open_store(
    root: str,
    endpoint_url: str | None = None,
    requester_pays: bool = False,
    workers: int = Transfer.workers,
    attempts: int = Transfer.attempts,
) -> ObjectStore:
    """Open a store without any access before the first call. Raises InputError for an unsupported address."""
    if root.startswith("s3://"):
        return Bucket(root, endpoint_url, requester_pays, Transfer(workers=workers, attempts=attempts))
    if "://" in root:
        raise InputError("neither a folder nor s3://bucket/prefix", root, "copy the data to a folder or a bucket")
    return Folder(root, workers)


def place(folder: Path, key: str) -> Path:
    """Path of the object `key` in `folder`; creates its parents. Raises InputError if `key` is not a file path."""
    target = inside(folder, key)
    if Path(key).as_posix() != key:
        raise InputError(f"the key {key!r} is not the path of a file", folder, "rename or remove the object")
    with disk_in_one_line(f"{folder}, {key!r}", target):
        target.parent.mkdir(parents=True, exist_ok=True)
    return target


def fetch_all(
    store: ObjectStore, wanted: Iterable[tuple[StoredObject, Path]], on_bytes: OnBytes = ignore_bytes
) -> Iterator[tuple[StoredObject, str]]:
    """Fetch objects concurrently; yield each object with its SHA-256 as soon as it is complete on disk."""
    stopped = threading.Event()

    def check_stopped(size: int) -> None:
        if stopped.is_set():
            raise CancelledError
        on_bytes(size)

    def fetch(item: StoredObject, target: Path) -> tuple[StoredObject, str]:
        return item, store.fetch(item, target, check_stopped)

    rest = iter(wanted)
    pending: set[Future[tuple[StoredObject, str]]] = set()
    pool = ThreadPoolExecutor(store.workers)
    try:
        while True:
            pending.update(pool.submit(fetch, *one) for one in islice(rest, 2 * store.workers - len(pending)))
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in sorted(done, key=_failed))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _failed(future: Future[tuple[StoredObject, str]]) -> bool:
    return future.exception() is not None
