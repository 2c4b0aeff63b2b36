"""Data versions: all of DVC. The version of a clip store is the hash by which DVC knows its folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slowfast_core.errors import InputError

REMOTE = "storage"  # the name of the default remote in .dvc/config


def data_version(folder: Path) -> str:
    """The hash that `dvc add` records for `folder` (`<md5>.dir`), without a repository and without a cache."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB

    files = LocalFileSystem()
    unused = HashFileDB(files, str(folder.parent / ".no-cache"), tmp_dir=None)  # a dry run stores nothing in it
    _, _, tree = build(unused, str(folder.resolve()), files, "md5", dry_run=True)
    return str(tree.hash_info.value)


def track(store: Path, repository: Path, remote: Path) -> str:
    """Add `store`, a folder below `repository`, to the DVC repository there; push it to `remote`; return its version.

    The repository is made when there is none; it needs no git. Doing it again with the same store changes nothing.
    """
    from dvc.exceptions import DvcException

    store, repository, remote = store.resolve(), repository.resolve(), remote.resolve()
    try:
        with _quiet(), _repository(repository, remote) as repo:
            # Not relinked to the cache: the store's files stay writable, and a kill loses none of them.
            (stage,) = repo.add([str(store)], relink=False)
            repo.push([stage.addressing])
            return str(stage.outs[0].hash_info.value)
    except DvcException as error:
        raise InputError(
            f"DVC: {' '.join(str(error).split())}", store, f"mend or remove {repository / '.dvc'}"
        ) from error


@contextmanager
def _repository(folder: Path, remote: Path) -> Iterator[Any]:
    """The repository in `folder`, with `remote` as the default where it has none."""
    from dvc.repo import Repo

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".dvc" / "config").is_file():
        Repo.init(str(folder), no_scm=True, force=True).close()
    with Repo(str(folder)) as repo:
        if "remote" not in repo.config["core"]:
            with repo.config.edit("repo") as config:
                config["core"] |= {"analytics": False, "check_update": False, "remote": REMOTE}
                config["remote"][REMOTE] = {"url": os.path.relpath(remote)}  # DVC makes it relative to its config
        yield repo


@contextmanager
def _quiet() -> Iterator[None]:
    """Without DVC's own bars and lines: a stage tells its progress itself."""
    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
