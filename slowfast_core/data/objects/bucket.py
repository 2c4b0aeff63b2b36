"""Object store in a bucket of S3 or an S3-compatible service.

Credentials come only from the standard AWS chain. botocore retries a request a few times; this module retries requests
that fail longer, and responses with incomplete or wrong content.
"""

from __future__ import annotations

import hashlib
import mimetypes
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from slowfast_core.data.objects.object import CHUNK, OnBytes, StoredObject, Transfer, ignore_bytes, md5s_of_parts
from slowfast_core.data.objects.partial_file import PartialFile
from slowfast_core.data.objects.s3_errors import (
    TornError,
    WrongContentError,
    changed_error,
    is_transient,
    s3_in_one_line,
)
from slowfast_core.errors import InputError
from slowfast_core.files import disk_in_one_line, md5_of, sha256_of, whole_file

T = TypeVar("T")
TRANSFER = Transfer()
REQUEST_ATTEMPTS = 4  # by botocore
LONGEST_BACKOFF_SECONDS = 20


class Bucket:
    """The objects below `s3://bucket/prefix`."""

    def __init__(
        self, root: str, endpoint_url: str | None = None, requester_pays: bool = False, transfer: Transfer = TRANSFER
    ) -> None:
        self.root = root
        self.workers = transfer.workers
        self._name, _, prefix = root.removeprefix("s3://").partition("/")
        self._prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        self._endpoint_url = endpoint_url
        self._payer = {"RequestPayer": "requester"} if requester_pays else {}
        self._transfer = transfer
        self._requests = threading.BoundedSemaphore(transfer.workers)
        self._uploading = threading.Lock()

    def objects(self, missing_ok: bool = False) -> list[StoredObject]:
        with s3_in_one_line(self.root):
            listed = self._listed()
        items = [
            StoredObject(entry["Key"].removeprefix(self._prefix), entry["Size"], entry["ETag"].strip('"'))
            for entry in listed
            if not entry["Key"].endswith("/")
        ]
        if not items and not missing_ok:
            raise InputError("nothing below this prefix", self.root, "check the bucket and the prefix in data.source")
        return sorted(items, key=lambda item: item.key)

    def fetch(self, item: StoredObject, target: Path, on_bytes: OnBytes = ignore_bytes) -> str:
        where = f"{self.root}, {item.key!r}"
        with disk_in_one_line(where, target), s3_in_one_line(where):
            if len(self._transfer.parts(item.size)) > 1:
                fetch = partial(self._fetch_parts, item, target, on_bytes)
                return self._retried(fetch, lambda error: isinstance(error, WrongContentError))
            sha256 = self._retried(partial(self._fetch_whole, item, target))
        on_bytes(item.size)
        return sha256

    def put(self, source: Path, key: str) -> StoredObject:
        where = f"{self.root}, {key!r}"
        with disk_in_one_line(where, source), s3_in_one_line(where):
            return self._retried(partial(self._put, source, key))

    def remove(self, key: str) -> None:
        with s3_in_one_line(f"{self.root}, {key!r}"), self._requests:
            self._client.delete_object(Bucket=self._name, Key=self._prefix + key, **self._payer)

    def _listed(self) -> list[dict[str, Any]]:
        """List all entries. Only botocore retries the first page, so that a wrong address is reported quickly."""
        page_of = partial(self._client.list_objects_v2, Bucket=self._name, Prefix=self._prefix, **self._payer)
        page = page_of()
        entries = list(page.get("Contents", ()))
        while page.get("IsTruncated"):
            page = self._retried(partial(page_of, ContinuationToken=page["NextContinuationToken"]))
            entries.extend(page.get("Contents", ()))
        return entries

    def _fetch_whole(self, item: StoredObject, target: Path) -> str:
        with whole_file(target) as temporary:
            with self._reply(item) as reply, temporary.open("wb") as file:
                file.writelines(reply["Body"].iter_chunks(CHUNK))
            if (size := temporary.stat().st_size) != item.size:
                raise TornError(f"{size} of {item.size} bytes arrived")
            if not is_opaque(reply):
                self._compare(item, md5_of(temporary), temporary)
            return sha256_of(temporary)

    def _fetch_parts(self, item: StoredObject, target: Path, on_bytes: OnBytes) -> str:
        """Fetch the parts that earlier calls for the same content have not finished."""
        file = PartialFile(target, item, self._transfer.parts(item.size))
        missing = file.missing()
        on_bytes(item.size - sum(map(len, missing)))

        def fetch_part(part: range) -> None:
            self._retried(partial(self._fetch_part, item, file, part))
            on_bytes(len(part))

        with ThreadPoolExecutor(self._transfer.workers) as pool:
            list(pool.map(fetch_part, missing))
        try:
            sha256, md5 = file.digests()
            if not is_opaque(self._retried(partial(self._head, item.key))):
                self._compare(item, md5, file.path)
        except WrongContentError:
            file.forget_all()
            on_bytes(-item.size)
            raise
        file.publish()
        return sha256

    def _fetch_part(self, item: StoredObject, file: PartialFile, part: range) -> None:
        requested = f"{part.start}-{part.stop - 1}"
        with self._reply(item, Range=f"bytes={requested}") as reply:
            if reply.get("ContentRange") != f"bytes {requested}/{item.size}":
                raise TornError(f"requested the bytes {requested}, got {reply.get('ContentRange', 'all')}")
            file.write(part, reply["Body"].iter_chunks(CHUNK))

    @contextmanager
    def _reply(self, item: StoredObject, **arguments: str) -> Iterator[dict[str, Any]]:
        with self._requests:
            reply = self._client.get_object(
                Bucket=self._name, Key=self._prefix + item.key, IfMatch=f'"{item.identity}"', **arguments, **self._payer
            )
            with reply["Body"]:
                if reply["ETag"].strip('"') != item.identity:  # some stores ignore If-Match
                    raise changed_error(f"{self.root}, {item.key!r}")
                yield reply

    def _compare(self, item: StoredObject, md5: str, path: Path) -> None:
        """Raises WrongContentError when the ETag is an MD5 of the content or of its parts, and differs from the file's.

        The store reports the sizes of the parts; without them, only the size of a multipart object is checked.
        """
        if PLAIN.fullmatch(item.identity) and md5 != item.identity:
            raise WrongContentError(f"md5 {md5} is not the ETag {item.identity}")
        if not (of_parts := OF_PARTS.fullmatch(item.identity)):
            return
        count, first = int(of_parts[1]), self._part_size(item, 1)
        if not first or etag_of_parts(path, equal_parts(first, item.size)) == item.identity:
            return
        sizes = [self._part_size(item, number) for number in range(1, count + 1)]
        if sum(sizes) == item.size and etag_of_parts(path, sizes) != item.identity:
            raise WrongContentError(f"the content does not match the ETag {item.identity}")

    def _part_size(self, item: StoredObject, number: int) -> int:
        """Size in bytes of an uploaded part; 0 if the store does not report it."""
        reply = self._retried(partial(self._head, item.key, PartNumber=number))
        size: int = reply["ContentLength"]
        return size if reply.get("PartsCount") else 0

    def _put(self, source: Path, key: str) -> StoredObject:
        """Upload the file unless the object already has its content, and compare the stored object with the file."""
        size = source.stat().st_size
        parts = self._transfer.parts(size)
        etags = {md5_of(source), etag_of_parts(source, map(len, parts))}  # stores use one or the other
        before = self._head(key, missing_ok=True)
        if before.get("ETag", "").strip('"') not in etags:
            self._upload(source, key, parts)
        after = self._head(key)
        found = after["ETag"].strip('"')
        if after["ContentLength"] != size or (found not in etags and not is_opaque(after)):
            raise WrongContentError(f"the ETag of the uploaded object is {found}, not {max(etags, key=len)}")
        return StoredObject(key, size, found)

    def _upload(self, source: Path, key: str, parts: list[range]) -> None:
        """Upload the file; only one upload runs at a time, because it may use all workers."""
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        config = TransferConfig(
            multipart_threshold=1 if len(parts) > 1 else sys.maxsize,
            multipart_chunksize=max(len(parts[0]), self._transfer.part_bytes),  # an empty file has a part of 0 bytes
            max_concurrency=self._transfer.workers,
            preferred_transfer_client="classic",
        )
        extra = {"ContentType": mimetypes.guess_type(source.name)[0] or "binary/octet-stream", **self._payer}
        with self._uploading, create_transfer_manager(self._client, config) as manager:
            manager.upload(str(source), self._name, self._prefix + key, extra_args=extra).result()

    def _head(self, key: str, missing_ok: bool = False, **arguments: int) -> Mapping[str, Any]:
        from botocore.exceptions import ClientError

        try:
            with self._requests:
                reply: Mapping[str, Any] = self._client.head_object(
                    Bucket=self._name, Key=self._prefix + key, **arguments, **self._payer
                )
        except ClientError as error:
            if missing_ok and error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return {}
            raise
        return reply

    def _retried(self, work: Callable[[], T], should_retry: Callable[[Exception], bool] = is_transient) -> T:
        for attempt in range(1, self._transfer.attempts):
            try:
                return work()
            except Exception as error:
                if not should_retry(error):
                    raise
            pause = min(self._transfer.backoff_seconds * 2 ** (attempt - 1), LONGEST_BACKOFF_SECONDS)
            time.sleep(pause * random.uniform(0.5, 1))
        return work()

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
            connect_timeout=10,
            read_timeout=self._transfer.timeout_seconds,
            max_pool_connections=2 * self._transfer.workers,
        )
        try:
            return boto3.session.Session().client("s3", endpoint_url=self._endpoint_url, config=config)
        except ValueError as error:
            raise InputError(str(error), self.root, "correct data.endpoint_url") from None


PLAIN = re.compile(r"[0-9a-f]{32}")
OF_PARTS = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})")


def etag_of_parts(path: Path, sizes: Iterable[int]) -> str:
    """ETag of the file if it is uploaded in consecutive parts of these sizes in bytes."""
    digests = md5s_of_parts(path, sizes)
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def equal_parts(first: int, size: int) -> list[int]:
    """Sizes of the parts of an object of `size` bytes if each part but the last has `first` bytes."""
    return [first] * (size // first) + ([size % first] if size % first else [])


def is_opaque(reply: Mapping[str, Any]) -> bool:
    """Whether the ETag of the reply is not an MD5, as with some kinds of encryption."""
    return reply.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in reply
