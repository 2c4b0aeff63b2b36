"""A directory or an `s3://bucket/prefix` seen as one thing: what is in it, and its objects to the disk and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from slowfast_core.data.objects.bucket import Bucket
from slowfast_core.data.objects.folder import Folder
from slowfast_core.data.objects.object import Arrived, StoredObject, Transfer, nobody
from slowfast_core.errors import InputError
from slowfast_core.files import disk_in_one_line, inside

T = TypeVar("T")
R = TypeVar("R")


class ObjectStore(Protocol):
    @property
    def root(self) -> str:
        """As the user wrote it."""

    @property
    def workers(self) -> int:
        """How many objects are moved at a time."""

    def objects(self, missing_ok: bool = False) -> list[StoredObject]:
        """Everything below the root, sorted by key. Raises InputError when there is no such root, unless it may be."""

    def fetch(self, item: StoredObject, target: Path, arrived: Arrived = nobody) -> str:
        """Write the object to `target`, whole or not at all; return its sha256. Raises InputError."""

    def put(self, source: Path, key: str) -> StoredObject:
        """Have the object `key` be what the file is; nothing is sent when it is already. Raises InputError."""

    def remove(self, key: str) -> None:
        """Have no object `key`. Raises InputError."""


def open_store(
    root: str,
    endpoint_url: str | None = None,
    requester_pays: bool = False,
    workers: int = Transfer.workers,
    attempts: int = Transfer.attempts,
) -> ObjectStore:
    """Nothing is read, and no connection made, before the first call. Raises InputError for another kind of address."""
    if root.startswith("s3://"):
        return Bucket(root, endpoint_url, requester_pays, Transfer(workers=workers, attempts=attempts))
    if "://" in root:
        raise InputError("neither a folder nor s3://bucket/prefix", root, "copy the data to one of these")
    return Folder(root, workers)


def place(folder: Path, key: str) -> Path:
    """Where the object `key` goes below `folder`. Raises InputError for a key that cannot be a file there."""
    target = inside(folder, key)
    if Path(key).as_posix() != key:
        raise InputError(f"the key {key!r} is not the path of a file", folder, "rename the object, or leave it out")
    with disk_in_one_line(f"{folder}, {key!r}", target):
        target.parent.mkdir(parents=True, exist_ok=True)
    return target


def fetch_all(
    store: ObjectStore, wanted: Iterable[tuple[StoredObject, Path]], arrived: Arrived = nobody
) -> Iterator[tuple[StoredObject, str]]:
    """Fetch in threads; yield each object with its sha256 as soon as it is whole on the disk."""
    stopped = threading.Event()

    def go_on(size: int) -> None:
        if stopped.is_set():
            raise CancelledError
        arrived(size)

    def fetch(one: tuple[StoredObject, Path]) -> tuple[StoredObject, str]:
        item, target = one
        return item, store.fetch(item, target, go_on)

    return _in_threads(fetch, wanted, store.workers, stopped)


def fetch_tree(store: ObjectStore, folder: Path) -> Iterator[tuple[StoredObject, str]]:
    """Everything below the root of the store, below `folder`."""
    return fetch_all(store, ((item, place(folder, item.key)) for item in store.objects()))


def put_tree(store: ObjectStore, folder: Path) -> Iterator[StoredObject]:
    """Every file below `folder`, below the root of the store; what is there already is not sent again."""
    files = [item.key for item in Folder(str(folder)).objects()]
    return _in_threads(lambda key: store.put(inside(folder, key), key), files, store.workers, threading.Event())


def _in_threads(work: Callable[[T], R], todo: Iterable[T], workers: int, stopped: threading.Event) -> Iterator[R]:
    """Yield each result as soon as it is there; few of `todo` are taken ahead. `stopped` is set at the end."""
    rest = iter(todo)
    pending: set[Future[R]] = set()
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            pending.update(pool.submit(work, one) for one in islice(rest, 2 * workers - len(pending)))
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in sorted(done, key=_failed))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _failed(future: Future[R]) -> bool:
    return future.exception() is not None
