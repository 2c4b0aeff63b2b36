"""The DVC repository of a workspace and its remote: objects named by their MD5, and records of versions.

Everything in the remote except the records has DVC's layout, so that `dvc pull` works.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slowfast_core.credentials import without_credentials
from slowfast_core.environment import full_disk
from slowfast_core.errors import InputError
from slowfast_core.files import md5_of
from slowfast_core.progress import progress

DEFAULT = "storage"  # the name of the default remote in .dvc/config
ASKED = "asked"  # the name of a remote given by its address; it is not written to .dvc/config
RECORDS = "versions"  # the folder of records in a remote
MD5 = re.compile(r"[0-9a-f]{32}")
CONNECT_SECONDS, READ_SECONDS = 10, 60


@dataclass(frozen=True)
class Address:
    """A DVC remote: a folder, s3://bucket/prefix or any URL that DVC supports; None is the workspace's default."""

    url: str | None = None
    endpoint_url: str | None = None  # of an S3-compatible store

    def __post_init__(self) -> None:
        if self.url and "://" not in self.url:
            object.__setattr__(self, "url", str(Path(self.url).expanduser().resolve()))

    @property
    def recorded(self) -> Address:
        """The address without credentials, for records."""
        return Address(
            self.url and without_credentials(self.url), self.endpoint_url and without_credentials(self.endpoint_url)
        )


@dataclass(frozen=True)
class Entry:
    """A file of a data version."""

    path: str  # relative to the folder of the version
    md5: str


@dataclass(frozen=True)
class Remote:
    """An open repository and one of its remotes; `cache` and `objects` are their DVC object databases."""

    repo: Any
    cache: Any
    objects: Any
    root: str
    where: str  # address in messages

    def path_in_cache(self, md5: str) -> Path:
        return Path(self.cache.oid_to_path(md5))

    def listing(self, version: str) -> list[Entry] | None:
        """The files of a version, from its list `<md5>.dir`; None if the list is missing or damaged in the cache."""
        path = self.path_in_cache(version)
        if not path.is_file() or f"{md5_of(path)}.dir" != version:
            return None
        entries = [Entry(entry["relpath"], entry["md5"]) for entry in json.loads(path.read_text(encoding="utf-8"))]
        if odd := [entry.md5 for entry in entries if not MD5.fullmatch(entry.md5)]:
            raise InputError(f"the list of files names {odd[0]!r}, which is not an MD5", version, "use another version")
        return entries

    def pull(self, md5s: Collection[str]) -> None:
        """Fetch the objects that the cache does not have. Raises InputError if one fails."""
        wanted = [md5 for md5 in sorted(set(md5s)) if not self.path_in_cache(md5).exists()]
        if missing := set(wanted) - self._there(wanted):
            what = f"{len(missing)} objects of this version are not in the remote, for example {min(missing)}"
            raise InputError(what, self.where, "name its remote with --remote, or push it again from its workspace")
        self._transfer("fetch", self.objects, self.cache, wanted)

    def push(self, md5s: Collection[str], listing: str) -> None:
        """Upload the objects that the remote does not have, then their list `listing`. Raises InputError."""
        there = self._there([*set(md5s), listing])
        wanted = [md5 for md5 in sorted(set(md5s)) if md5 not in there]
        self._refuse_damaged(wanted)
        self._transfer("push", self.cache, self.objects, wanted)
        if listing not in there:
            self._transfer("push", self.cache, self.objects, [listing])

    def _there(self, md5s: list[str]) -> set[str]:
        """The objects that the remote has."""
        with self._in_one_line():
            return set(self.objects.oids_exist(md5s)) if md5s else set()

    def exists(self) -> bool:
        """Whether the bucket or folder exists."""
        place = self.root.partition("/")[0] if self.where.startswith("s3://") else self.root
        with self._in_one_line():
            return bool(self.objects.fs.exists(place))

    def records(self) -> dict[str, bytes]:
        """The records in the remote, by file name."""
        files = self.objects.fs
        folder = files.join(self.root, RECORDS)
        with self._in_one_line():
            found = sorted(files.find(folder)) if files.exists(folder) else []
            return {files.name(path): files.cat_file(path) for path in found if path.endswith(".json")}

    def read_record(self, name: str) -> bytes | None:
        files = self.objects.fs
        path = files.join(self.root, RECORDS, name)
        with self._in_one_line():
            return files.cat_file(path) if files.exists(path) else None

    def record(self, file: Path, name: str) -> None:
        with self._in_one_line():
            self.objects.fs.put_file(str(file), self.objects.fs.join(self.root, RECORDS, name))

    def _transfer(self, what: str, source: Any, target: Any, md5s: list[str]) -> None:
        """Transfer objects, which DVC retries several times. Raises InputError with the error of the first that fails.

        DVC's own `transfer` only logs such errors.
        """
        failed: dict[str, BaseException] = {}
        if not md5s:
            return
        with self._in_one_line(), progress(what, len(md5s)) as advance:
            paths = [source.oid_to_path(md5) for md5 in md5s]
            bar = _callback(advance)
            try:
                target.add(paths, source.fs, md5s, check_exists=False, on_error=failed.__setitem__, callback=bar)
            except FileNotFoundError:  # DVC tries to move the file of an object even if nothing was received
                if not failed:
                    raise
            if target is self.cache:
                for md5 in failed:  # DVC may leave incomplete files of failed objects
                    self.path_in_cache(md5).unlink(missing_ok=True)
            for error in failed.values():
                raise error

    def _in_one_line(self) -> AbstractContextManager[None]:
        return in_one_line(self.where, Path(self.cache.path))

    def _refuse_damaged(self, md5s: list[str]) -> None:
        """Remove objects damaged in the cache, and raise InputError; `dvc add` restores them from the store."""
        damaged = [md5 for md5 in md5s if md5_of(self.path_in_cache(md5)) != md5]
        for md5 in damaged:
            self.path_in_cache(md5).unlink()
        if damaged:
            what = f"object {damaged[0]} was damaged and is removed"
            raise InputError(what, self.cache.path, "run the command again")


@contextmanager
def open_remote(repository: Path, default: Path, address: Address) -> Iterator[Remote]:
    """Open the DVC repository in `repository`; creates it without git, with the folder `default` as default remote.

    Raises InputError for an address that DVC does not support.
    """
    from dvc.logger import set_loggers_level

    repository = repository.resolve()
    # The level also hides DVC's progress bars: commands show their own progress.
    with set_loggers_level(logging.CRITICAL), _opened(repository, default, address) as repo:
        with in_one_line(address.url or repository):
            remote = repo.cloud.get_remote(ASKED if address.url else None)
            objects = remote.odb
        where = f"s3://{remote.path}" if "s3" in remote.fs.protocol else remote.path
        yield Remote(repo, repo.cache.local, objects, remote.path, without_credentials(where))


@contextmanager
def _opened(repository: Path, default: Path, address: Address) -> Iterator[Any]:
    from dvc.repo import Repo

    with in_one_line(address.url or repository):
        _make(repository, default)
        repo = Repo(str(repository), config=_config(address))
    with repo:
        yield repo


@contextmanager
def in_one_line(where: object, *places: Path) -> Iterator[None]:
    """Raise failures of DVC and of a remote as InputError; `places` are paths on the disks that are written."""
    from aiohttp import ClientError as ConnectionLost
    from botocore.exceptions import BotoCoreError, ClientError
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, ImportError, BotoCoreError, ClientError, ConnectionLost, OSError) as error:
        local = [Path(str(where))] if "://" not in str(where) else []
        if full := full_disk(error, *places, *local):
            raise full from error
        line = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        fix = "check the address of the remote, the credentials and the network; a rerun resumes"
        raise InputError(f"DVC: {line}", where, fix) from error


def _config(address: Address) -> dict[str, Any]:
    if not address.url:
        return {}
    settings: dict[str, Any] = {"url": address.url}
    if address.url.startswith("s3://"):
        settings |= {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        if address.endpoint_url:
            settings["endpointurl"] = address.endpoint_url
    return {"remote": {ASKED: settings}}


def _make(repository: Path, default: Path) -> None:
    """Create the repository if it does not exist, and set `default` as default remote if it has none."""
    from dvc.repo import Repo

    repository.mkdir(parents=True, exist_ok=True)
    if not (repository / ".dvc" / "config").is_file():
        Repo.init(str(repository), no_scm=True, force=True).close()
    with Repo(str(repository)) as repo:
        if "remote" not in repo.config["core"]:
            with repo.config.edit("repo") as config:
                config["core"] |= {"analytics": False, "check_update": False, "remote": DEFAULT}
                config["remote"][DEFAULT] = {"url": os.path.relpath(default.resolve())}  # DVC: relative to its config


def _callback(advance: Callable[..., None]) -> Any:
    from fsspec.callbacks import Callback

    class Advance(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            advance(inc)

    return Advance()
