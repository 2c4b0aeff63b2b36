"""Tracks data versions. The version of a clip store is DVC's hash of its folder."""

from __future__ import annotations

from pathlib import Path

from slowfast_core.data.versions.catalogue import described, is_kept, keep
from slowfast_core.data.versions.remote import Address, Remote, in_one_line, open_remote


def data_version(folder: Path) -> str:
    """Compute the hash that `dvc add` records for `folder` (`<md5>.dir`), without a repository or a cache."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB

    files = LocalFileSystem()
    unused = HashFileDB(files, str(folder.parent / ".no-cache"), tmp_dir=None)  # a dry run stores nothing in it
    _, _, tree = build(unused, str(folder.resolve()), files, "md5", dry_run=True)
    return str(tree.hash_info.value)


def track(store: Path, repository: Path, default: Path, address: Address | None = None) -> str:
    """Add `store`, a folder below `repository`, to the DVC repository, push it to the remote and return its version.

    Creates the repository without git if needed, with the folder `default` as its default remote. Only objects that the
    remote does not have are sent. A rerun changes nothing, and resumes after a kill. The version is recorded last, in
    the remote and in the repository. Raises InputError.
    """
    address = address or Address()
    store, repository = store.resolve(), repository.resolve()
    with open_remote(repository, default, address) as remote:
        version = _add(store, remote)
        remote.push([entry.md5 for entry in remote.listing(version) or ()], version)
        keep(described(version, store, repository), repository, remote, address)
    return version


def is_tracked(store: Path, version: str, repository: Path, address: Address) -> bool:
    """Whether `track` has completed for this version."""
    return store.with_suffix(".dvc").is_file() and is_kept(version, repository, address)


def _add(store: Path, remote: Remote) -> str:
    with in_one_line(store):
        # Without links to the cache, the store's files stay writable, and a kill loses none of them.
        (stage,) = remote.repo.add([str(store)], relink=False)
    return str(stage.outs[0].hash_info.value)
