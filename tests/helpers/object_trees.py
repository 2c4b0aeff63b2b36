"""Folders that are fetched from an object store, or put into it, as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slowfast_core.data.objects.folder import Folder
from slowfast_core.data.objects.object import StoredObject
from slowfast_core.data.objects.store import ObjectStore, fetch_all, place


def fetch_tree(store: ObjectStore, folder: Path) -> Iterator[tuple[StoredObject, str]]:
    """Fetch all objects of the store into `folder`; yield each with its SHA-256."""
    return fetch_all(store, ((item, place(folder, item.key)) for item in store.objects()))


def put_tree(store: ObjectStore, folder: Path) -> list[StoredObject]:
    """Upload all files below `folder`; return their objects."""
    keys = [item.key for item in Folder(str(folder)).objects()]
    with ThreadPoolExecutor(store.workers) as pool:
        return list(pool.map(lambda key: store.put(folder / key, key), keys))
