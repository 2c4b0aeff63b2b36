"""Checkpoint files of the public codebases, read without running anything that they hold.

A pickle is a program. Of what it may name, numpy arrays and plain containers are taken; anything else is refused by
its name before it is called.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slowfast_core.errors import InputError

STATE_KEYS = ("model_state", "state_dict", "blobs")
WHOLE = "fetch the file again, and compare its size or checksum with the publisher's"
TRUSTED = "take the weights from a source that publishes plain tensors"


@dataclass(frozen=True)
class PeerFile:
    """The weights in a peer's checkpoint, by the peer's names, and its training configuration where it kept one."""

    state: dict[str, Tensor]
    config: str = ""
    caffe2: bool = False


def read_peer_file(path: Path) -> PeerFile:
    """A `.pkl` is read as Caffe2's, anything else as PyTorch's. Raises InputError for what is no whole checkpoint."""
    if not path.is_file():
        raise InputError("no such checkpoint", path, "name a file that exists")
    content = read_plain(path, path, TRUSTED) if path.suffix == ".pkl" else _read_torch(path)
    if not isinstance(content, Mapping):
        raise InputError(f"holds a {type(content).__name__}, not a mapping of weights", path, "name a checkpoint")
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {str(name): tensor for name, value in state.items() if (tensor := _as_tensor(value)) is not None}
    if not tensors:
        raise InputError("holds no weights", path, f"a checkpoint keeps them under one of {', '.join(STATE_KEYS)}")
    config = content.get("cfg")
    return PeerFile(tensors, config if isinstance(config, str) else "", path.suffix == ".pkl")


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_safe_for_torch()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  a damaged file makes the reader raise nearly anything
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(f"refused: it would run {named[1]}", path, TRUSTED) from None
        raise InputError(f"no whole PyTorch file ({type(error).__name__})", path, WHOLE) from None


def read_plain(path: Path, where: object, trusted: str) -> Any:
    """The arrays and plain containers of a pickle. Raises InputError; `trusted` mends one that would run code."""
    try:
        with path.open("rb") as file:
            return _Restricted(file, encoding="latin-1").load()
    except _Refused as error:
        raise InputError(f"refused: it would run {error}", where, trusted) from None
    except Exception as error:  # noqa: BLE001  a damaged file makes the reader raise nearly anything
        raise InputError(f"no whole pickle ({type(error).__name__})", where, WHOLE) from None


class _Refused(pickle.UnpicklingError):
    """The pickle names something that it may not."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into an old pickle, and nothing else that the codec registry could do."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode with {encoding!r}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """How Python 3 writes those of an empty array into an old pickle; with arguments it could fill the memory."""
    return b""


_reconstruct: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
_scalar: Callable[..., Any] = np.float32(0).__reduce__()[0]  # type: ignore[assignment]
_frombuffer: Callable[..., Any] = np.empty(0).__reduce_ex__(5)[0]  # type: ignore[assignment]
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}


def _safe_for_torch() -> list[Any]:
    """Learning rates and scores are often numpy scalars in the checkpoints of training frameworks."""
    kinds = [type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "?")]
    named = [(value, f"{module}.{name}") for (module, name), value in ALLOWED.items()]
    renamed = [(value, name.replace("numpy.core", "numpy._core")) for value, name in named]
    return [*named, *renamed, *kinds]


def _as_tensor(value: object) -> Tensor | None:
    """None for what is no array of numbers: counters, learning rates, nested state."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.dtype.itemsize <= 8:
        return torch.from_numpy(np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("=")))
    return None
