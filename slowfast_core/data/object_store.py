"""A directory or an `s3://bucket/prefix` seen as one thing: what is in it, and one object of it on the local disk.

All boto3 of the project is here. Credentials come only from the standard AWS chain.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from slowfast_core.errors import InputError
from slowfast_core.files import inside, whole_file

CHUNK = 1 << 20
WORKERS = 8
ATTEMPTS = 5
PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredObject:
    key: str  # relative to the root of the store, with "/"
    size: int
    identity: str  # another one when the content is another one


class ObjectStore(Protocol):
    @property
    def root(self) -> str:
        """As the user wrote it."""

    def objects(self) -> list[StoredObject]:
        """Everything below the root, sorted by key. Raises InputError when there is no such root."""

    def fetch(self, item: StoredObject, target: Path) -> str:
        """Write the object to `target`, whole or not at all; return its sha256. Raises InputError."""


def open_store(root: str, endpoint_url: str | None = None) -> ObjectStore:
    """Nothing is read, and no connection made, before the first call."""
    if root.startswith("s3://"):
        return Bucket(root, endpoint_url)
    return Folder(root)


def fetch_all(
    store: ObjectStore, wanted: Iterable[tuple[StoredObject, Path]], workers: int = WORKERS
) -> Iterator[tuple[StoredObject, str]]:
    """Fetch in `workers` threads; yield each object with its sha256 as soon as it is whole on the disk."""
    todo = iter(wanted)
    pending: dict[Future[str], StoredObject] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            for item, target in islice(todo, 2 * workers - len(pending)):
                pending[pool.submit(store.fetch, item, target)] = item
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Folder:
    """Links to directories are not followed; a file that is a link out of the folder is refused when it is fetched."""

    root: str

    @property
    def path(self) -> Path:
        return Path(self.root).expanduser()

    def objects(self) -> list[StoredObject]:
        if not self.path.is_dir():
            raise InputError("no such folder", self.root, "give data.source a folder or s3://bucket/prefix")
        paths = (Path(folder, name) for folder, _, names in os.walk(self.path) for name in names)
        found = ((path, path.stat()) for path in paths if path.exists())
        return sorted(
            (
                StoredObject(path.relative_to(self.path).as_posix(), status.st_size, _file_identity(status))
                for path, status in found
                if stat.S_ISREG(status.st_mode)
            ),
            key=lambda item: item.key,
        )

    def fetch(self, item: StoredObject, target: Path) -> str:
        source = inside(self.path, item.key)
        try:
            file = source.open("rb")
        except OSError as error:
            raise InputError(f"cannot read {item.key!r}: {error.strerror}", self.root, "mend the file") from None
        with file, whole_file(target) as temporary:
            _, sha256, _ = _write(iter(lambda: file.read(CHUNK), b""), temporary)
            if _file_identity(source.stat()) != item.identity:
                raise _changed(item.key, self.root)
        return sha256


class Bucket:
    def __init__(
        self, root: str, endpoint_url: str | None = None, attempts: int = ATTEMPTS, backoff_seconds: float = 0.5
    ) -> None:
        self.root = root
        self._name, _, prefix = root.removeprefix("s3://").partition("/")
        self._prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        self._endpoint_url = endpoint_url
        self._attempts = attempts
        self._backoff_seconds = backoff_seconds
        self._client: Any = None

    def objects(self) -> list[StoredObject]:
        with _in_one_line(self.root):
            pages = self._connected().get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=self._prefix)
            listed = [entry for page in pages for entry in page.get("Contents", ())]
        items = [
            StoredObject(entry["Key"].removeprefix(self._prefix), entry["Size"], entry["ETag"].strip('"'))
            for entry in listed
            if not entry["Key"].endswith("/")
        ]
        if not items:
            raise InputError("nothing below this prefix", self.root, "check the bucket and the prefix in data.source")
        return sorted(items, key=lambda item: item.key)

    def fetch(self, item: StoredObject, target: Path) -> str:
        """botocore retries requests; a body that ends early, or is not what was sent, is retried here."""
        with _in_one_line(f"{self.root}, {item.key!r}"):
            return self._retried(lambda: self._fetch(item, target))

    def _fetch(self, item: StoredObject, target: Path) -> str:
        from botocore.exceptions import ClientError

        try:
            reply = self._connected().get_object(
                Bucket=self._name, Key=self._prefix + item.key, IfMatch=f'"{item.identity}"'
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey", "404"):
                raise _changed(item.key, self.root) from None
            raise
        # With these encryptions an ETag looks like an MD5 and is none.
        opaque = reply.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in reply
        with whole_file(target) as temporary:
            size, sha256, md5 = _write(reply["Body"].iter_chunks(CHUNK), temporary)
            if size != item.size:
                raise _TornError(f"{size} of {item.size} bytes arrived")
            if PLAIN_MD5.fullmatch(item.identity) and not opaque and md5 != item.identity:
                raise _TornError(f"md5 {md5} is not the ETag {item.identity}")
        return sha256

    def _retried(self, fetch: Callable[[], str]) -> str:
        from botocore import exceptions

        torn = (_TornError, exceptions.ResponseStreamingError, exceptions.IncompleteReadError)
        for attempt in range(1, self._attempts):
            try:
                return fetch()
            except (*torn, exceptions.ReadTimeoutError, exceptions.FlexibleChecksumError):
                time.sleep(self._backoff_seconds * 2**attempt * random.uniform(0.5, 1))
        return fetch()

    def _connected(self) -> Any:
        """The client; made once, before the threads that share it start, because a listing precedes every fetch."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            retries = {"mode": "standard", "max_attempts": self._attempts}
            config = Config(retries=retries, connect_timeout=10, read_timeout=60, max_pool_connections=WORKERS)
            try:
                self._client = boto3.session.Session().client("s3", endpoint_url=self._endpoint_url, config=config)
            except ValueError as error:
                raise InputError(_line(error), self.root, "correct data.endpoint_url") from None
        return self._client


class _TornError(Exception):
    """The body that came is not the object."""


@contextmanager
def _in_one_line(where: str) -> Iterator[None]:
    """Tell the failures of S3 as InputError."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        if error.response["Error"].get("Code") == "NoSuchBucket":
            raise InputError("no such bucket", where, "check data.source and data.endpoint_url") from None
        raise InputError(f"S3 refused: {_line(error)}", where, "check the credentials and what they permit") from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
        mend = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise InputError(_line(error), where, mend) from None
    except (exceptions.BotoCoreError, _TornError) as error:
        mend = "check data.source, data.endpoint_url and the network; a rerun goes on from the finished files"
        raise InputError(_line(error), where, mend) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _changed(key: str, root: str) -> InputError:
    return InputError(f"{key!r} was changed or removed while it was read", root, "run again when the source is still")


def _file_identity(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _write(chunks: Iterable[bytes], path: Path) -> tuple[int, str, str]:
    """Write the chunks; return their size, sha256 and md5."""
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            size += len(chunk)
            sha256.update(chunk)
            md5.update(chunk)
    return size, sha256.hexdigest(), md5.hexdigest()
