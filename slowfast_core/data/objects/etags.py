"""The ETag that S3 gives to a file: its MD5, or the MD5 of the MD5s of the parts in which it was uploaded.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slowfast_core.data.objects.object import CHUNK

PLAIN = re.compile(r"[0-9a-f]{32}")
OF_PARTS = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})")


def etag_of_parts(path: Path, sizes: Iterable[int]) -> str:
    """The ETag of the file when it was uploaded in consecutive parts of these sizes, in bytes."""
    digests = []
    with path.open("rb") as file:
        for size in sizes:
            md5 = hashlib.md5(usedforsecurity=False)
            while size > 0 and (chunk := file.read(min(size, CHUNK))):
                md5.update(chunk)
                size -= len(chunk)
            digests.append(md5.digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def equal_parts(first: int, size: int) -> list[int]:
    """The sizes of the parts of an object of `size` bytes of which the first part has `first`."""
    return [first] * (size // first) + ([size % first] if size % first else [])


def is_opaque(reply: Mapping[str, Any]) -> bool:
    """Whether the ETag of this reply only looks like an MD5, as with some encryptions."""
    return reply.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in reply
