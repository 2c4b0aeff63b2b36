"""Reads files of `torch.save` without torch's unpickler: only tensors and plain containers.

The new format (since PyTorch 1.6) is an uncompressed zip of `data.pkl` and one file of raw bytes for each storage. The
old format is four pickles (magic number, version, system, content), a fifth with the keys of the storages, and the
storages, each preceded by its length.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slowfast_core.convert.plain_arrays import Numpy
from slowfast_core.convert.plain_pickle import Budget, Calls, Name, PickleError, PickleReader

MAGIC = 0x1950A86A20F9469CFC6C  # of the old format
VERSION = 1001
MAX_DIMENSIONS = 32
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
KINDS = {f"{module}.{name}": dtype for name, dtype in STORAGES.items() for module in ("torch", "torch.cuda")}
DTYPES = [str(dtype) for dtype in STORAGES.values()]
WRONG = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
DAMAGE = (*WRONG, zipfile.BadZipFile, struct.error, OSError, EOFError)
ZIP = b"PK\x03\x04"

ReadStorage = Callable[["Storage"], bytes]


class Storage(NamedTuple):
    """A storage of raw elements that tensors refer to."""

    dtype: torch.dtype
    key: str
    length: int  # in elements

    @property
    def bytes(self) -> int:
        return self.length * self.dtype.itemsize


def read_torch(data: bytes) -> Any:
    """Read the content of a file in either format. Raises PickleError."""
    try:
        return _read_zip(data) if data.startswith(ZIP) else _read_old(data)
    except DAMAGE as error:
        raise PickleError(type(error).__name__) from None


def _read_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise PickleError("a compressed zip")
        names = {entry.filename for entry in entries}
        (content,) = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        folder = content.removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise PickleError("written on a big-endian machine")
        tensors = Tensors(lambda storage: archive.read(f"{folder}data/{storage.key}"), Budget(len(data)))
        return tensors.reader(archive.read(content)).load()


def _read_old(data: bytes) -> Any:
    """Read the content twice, because the storages come last: first to find their types, then with their bytes."""
    magic, position = _plain(data, 0)
    version, position = _plain(data, position)
    system, start = _plain(data, position)
    if magic != MAGIC or version != VERSION or not isinstance(system, dict):
        raise PickleError("no magic number")
    if not system.get("little_endian", True):
        raise PickleError("written on a big-endian machine")
    first = Tensors(None, Budget(len(data)))
    content = first.reader(data, start)
    content.load()
    raw = _old_storages(data, content.position, first.storages)
    return Tensors(lambda storage: raw[storage.key], Budget(len(data))).reader(data, start).load()


def _plain(data: bytes, position: int) -> tuple[Any, int]:
    """The content of the pickle at `position`, and the end of the pickle."""
    reader = PickleReader(data, {}, Budget(0), position)
    return reader.load(), reader.position


def _old_storages(data: bytes, position: int, storages: dict[str, Storage]) -> dict[str, bytes]:
    """The bytes of each storage, by its key."""
    keys, position = _plain(data, position)
    raw = {}
    for key in keys:
        (length,) = struct.unpack_from("<q", data, position)
        storage = storages[key]
        end = position + 8 + storage.bytes
        if length != storage.length or end > len(data) or key in raw:
            raise PickleError("truncated")
        raw[key] = data[position + 8 : end]
        position = end
    return raw


class Tensors:
    """The calls that the pickle of a file may make. Without `read`, it only collects `storages` without tensors."""

    def __init__(self, read: ReadStorage | None, budget: Budget) -> None:
        self.read, self.budget = read, budget
        self.storages: dict[str, Storage] = {}
        self.flat: dict[Storage, Tensor] = {}

    def reader(self, data: bytes, position: int = 0) -> PickleReader:
        return PickleReader(data, self.calls(), self.budget, position, self.storage)

    def calls(self) -> Calls:
        return {
            **Numpy(self.budget).calls(),
            **dict.fromkeys([*KINDS, *DTYPES, "__builtin__.str"], self.no_call),
            "torch._utils._rebuild_tensor": self.rebuild,
            "torch._utils._rebuild_tensor_v2": self.rebuild,
            "torch._utils._rebuild_parameter": self.parameter,
            "torch.Size": self.size,
            "torch.device": self.device,
        }

    def no_call(self, *_: Any) -> None:
        raise PickleError("a call of a type")

    def storage(self, key: Any) -> Storage:
        """Parse ("storage", type, key, device, number of elements); the old format appends a view."""
        if type(key) is not tuple or not 5 <= len(key) <= 6 or key[0] != "storage" or any(key[5:]):
            raise PickleError("not a storage")
        _, kind, name, _, length = key[:5]
        if type(kind) is not Name or kind.name not in KINDS or type(name) is not str or type(length) is not int:
            raise PickleError("not a storage")
        storage = Storage(KINDS[kind.name], name, length)
        if length < 0 or self.storages.setdefault(name, storage) != storage:
            raise PickleError("two storages with the same key")
        return storage

    def rebuild(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor | None:
        """A view of the storage; gradients and hooks are ignored."""
        if type(storage) is not Storage or not _is_shape(size) or not _is_shape(stride) or not _is_shape((offset,)):
            raise PickleError("a tensor without a storage or a shape")
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if 0 not in size and last >= storage.length:
            raise PickleError("a tensor larger than its storage")
        self.budget.spend(math.prod(size) * storage.dtype.itemsize + 1000)
        if self.read is None:
            return None
        return self.numbers(storage).as_strided(size, stride, offset) if 0 not in size else torch.zeros(size)

    def numbers(self, storage: Storage) -> Tensor:
        """All elements of the storage, read once."""
        assert self.read is not None
        if storage not in self.flat:
            raw = self.read(storage)
            self.budget.spend(len(raw))
            if len(raw) != storage.bytes:
                raise PickleError("truncated")
            self.flat[storage] = _numbers(raw, storage.dtype)
        return self.flat[storage]

    def parameter(self, tensor: Any, *_: Any) -> Any:
        return tensor

    def size(self, sides: Any) -> Any:
        return sides

    def device(self, *_: Any) -> None:
        """Devices are ignored: tensors are read to the CPU."""


def _is_shape(sides: Any) -> bool:
    if type(sides) is not tuple or len(sides) > MAX_DIMENSIONS:
        return False
    return all(type(side) is int and 0 <= side < 2**48 for side in sides)


def _numbers(raw: bytes, dtype: torch.dtype) -> Tensor:
    if dtype == torch.bool:  # bytes other than 0 and 1 are not valid booleans
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8) != 0
    return torch.frombuffer(bytearray(raw), dtype=dtype)
