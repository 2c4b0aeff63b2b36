"""The DVC repository of a workspace and its remote: objects named by their md5, and records of versions beside them.

Everything on the remote but the records has DVC's own layout, so `dvc pull` reads what is pushed here.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slowfast_core.credentials import without_credentials
from slowfast_core.environment import full_disk
from slowfast_core.errors import InputError
from slowfast_core.files import md5_of
from slowfast_core.progress import progress

DEFAULT = "storage"  # the name of the default remote in .dvc/config
ASKED = "asked"  # the name of a remote given by its address; it is not written into .dvc/config
RECORDS = "versions"  # the folder of records in a remote
MD5 = re.compile(r"[0-9a-f]{32}")
CONNECT_SECONDS, READ_SECONDS = 10, 60


@dataclass(frozen=True)
class Address:
    """A DVC remote: a folder, s3://bucket/prefix or what else DVC knows; None is the default one of the workspace."""

    url: str | None = None
    endpoint_url: str | None = None  # of an S3-compatible store

    def __post_init__(self) -> None:
        if self.url and "://" not in self.url:
            object.__setattr__(self, "url", str(Path(self.url).expanduser().resolve()))

    @property
    def recorded(self) -> Address:
        """As it is written down: without credentials."""
        return Address(
            self.url and without_credentials(self.url), self.endpoint_url and without_credentials(self.endpoint_url)
        )


@dataclass(frozen=True)
class Entry:
    path: str  # relative to the folder of the version
    md5: str


@dataclass(frozen=True)
class Remote:
    """An open repository and one remote of it. `cache` and `objects` are DVC's databases of objects."""

    repo: Any
    cache: Any
    objects: Any
    root: str
    where: str  # for people

    def path_in_cache(self, md5: str) -> Path:
        return Path(self.cache.oid_to_path(md5))

    def listing(self, version: str) -> list[Entry] | None:
        """The files of a version: `<md5>.dir` is their list, and has that md5. None when the cache has it not whole."""
        path = self.path_in_cache(version)
        if not path.is_file() or f"{md5_of(path)}.dir" != version:
            return None
        entries = [Entry(entry["relpath"], entry["md5"]) for entry in json.loads(path.read_text(encoding="utf-8"))]
        if odd := [entry.md5 for entry in entries if not MD5.fullmatch(entry.md5)]:
            raise InputError(f"the list of files names {odd[0]!r}, which is no md5", version, "take another version")
        return entries

    def pull(self, md5s: Collection[str]) -> None:
        """Bring the objects that the cache does not have. Raises InputError when one does not come."""
        wanted = [md5 for md5 in sorted(set(md5s)) if not self.path_in_cache(md5).exists()]
        if missing := set(wanted) - self._there(wanted):
            what = f"{len(missing)} objects of this version are not in the remote, {min(missing)} for one"
            raise InputError(what, self.where, "name its remote with --remote, or push it again where it was made")
        failed = self._transfer("fetch", self.objects, self.cache, wanted)
        for md5 in failed:  # DVC may give the name to what came of an object that failed
            self.path_in_cache(md5).unlink(missing_ok=True)
        self._raise_first(failed)

    def push(self, md5s: Collection[str], listing: str) -> int:
        """Send the objects that the remote does not have, then `listing`, which names them. Returns how many."""
        there = self._there([*set(md5s), listing])
        wanted = [md5 for md5 in sorted(set(md5s)) if md5 not in there]
        self._refuse_damaged(wanted)
        last = [] if listing in there else [listing]
        for md5s in (wanted, last):
            self._raise_first(self._transfer("push", self.cache, self.objects, md5s))
        return len(wanted) + len(last)

    def _there(self, md5s: list[str]) -> set[str]:
        """Those that the remote has."""
        with in_one_line(self.where, Path(self.cache.path)):
            return set(self.objects.oids_exist(md5s)) if md5s else set()

    def exists(self) -> bool:
        """Whether there is such a bucket, or folder."""
        place = self.root.partition("/")[0] if self.where.startswith("s3://") else self.root
        with in_one_line(self.where, Path(self.cache.path)):
            return bool(self.objects.fs.exists(place))

    def records(self) -> dict[str, bytes]:
        """The files in the folder of records, by name."""
        files = self.objects.fs
        folder = files.join(self.root, RECORDS)
        with in_one_line(self.where, Path(self.cache.path)):
            found = sorted(files.find(folder)) if files.exists(folder) else []
            return {files.name(path): files.cat_file(path) for path in found if path.endswith(".json")}

    def read_record(self, name: str) -> bytes | None:
        files = self.objects.fs
        path = files.join(self.root, RECORDS, name)
        with in_one_line(self.where, Path(self.cache.path)):
            return files.cat_file(path) if files.exists(path) else None

    def record(self, file: Path, name: str) -> None:
        with in_one_line(self.where, Path(self.cache.path)):
            self.objects.fs.put_file(str(file), self.objects.fs.join(self.root, RECORDS, name))

    def _transfer(self, what: str, source: Any, target: Any, md5s: list[str]) -> dict[str, BaseException]:
        """DVC tries each object again some times; returns why those that failed did."""
        failed: dict[str, BaseException] = {}
        if md5s:
            with in_one_line(self.where, Path(self.cache.path)), progress(what, len(md5s)) as advance:
                paths = [source.oid_to_path(md5) for md5 in md5s]
                told = _callback(advance)
                try:
                    target.add(paths, source.fs, md5s, check_exists=False, on_error=failed.__setitem__, callback=told)
                except FileNotFoundError:  # DVC moves what came of an object even when nothing came
                    if not failed:
                        raise
        return failed

    def _raise_first(self, failed: Mapping[str, BaseException]) -> None:
        for error in failed.values():
            with in_one_line(self.where, Path(self.cache.path)):
                raise error

    def _refuse_damaged(self, md5s: list[str]) -> None:
        """What rotted in the cache must not reach the remote; `dvc add` fills the gap from the store."""
        damaged = [md5 for md5 in md5s if md5_of(self.path_in_cache(md5)) != md5]
        for md5 in damaged:
            self.path_in_cache(md5).unlink()
        if damaged:
            raise InputError(
                f"object {damaged[0]} was damaged and is removed", self.cache.path, "run the command again"
            )


@contextmanager
def open_remote(repository: Path, default: Path, address: Address) -> Iterator[Remote]:
    """The DVC repository in `repository`, made when there is none, with the folder `default` as its default remote.

    It needs no git. Raises InputError for an address that DVC does not take.
    """
    repository = repository.resolve()
    with _quiet(), _opened(repository, default, address) as repo:
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
    """Raise failures of DVC and of a remote as InputError; `places` are on the disks that are written."""
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
        mend = "check the address of the remote, the credentials and the network; a rerun goes on from what was done"
        raise InputError(f"DVC: {line}", where, mend) from error


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
    """Make the repository when there is none, and name `default` as its default remote where it has none."""
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

    class Told(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            advance(inc)

    return Told()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without DVC's own bars and lines: a command tells its progress itself."""
    import dvc.repo  # noqa: F401  it sets its loggers when it is imported

    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
