"""Reads checkpoint files of the public codebases without running any code in them.

Only numbers, text, arrays, tensors and plain containers are read; any other name in a file is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slowfast_core.convert.plain_arrays import Numpy
from slowfast_core.convert.plain_pickle import Budget, PickleError, PickleReader, RefusedError
from slowfast_core.convert.torch_file import read_torch
from slowfast_core.errors import InputError

STATE_KEYS = ("model_state", "state_dict", "blobs")
WHOLE = "fetch the file again, and compare its size or checksum with the publisher's"
TRUSTED = "take the weights from a source that publishes plain tensors"


@dataclass(frozen=True)
class PeerFile:
    """The weights in a peer's checkpoint, by the peer's names, and its training configuration, if any."""

    state: dict[str, Tensor]
    config: str = ""
    caffe2: bool = False


def read_peer_file(path: Path) -> PeerFile:
    """Read a `.pkl` file as Caffe2's, any other as PyTorch's. Raises InputError if it is not a complete checkpoint."""
    if not path.is_file():
        raise InputError("no such checkpoint", path, "name an existing file")
    content = read_plain(path, path, TRUSTED) if path.suffix == ".pkl" else _read_torch(path)
    if not isinstance(content, Mapping):
        raise InputError(f"contains a {type(content).__name__}, not a mapping of weights", path, "name a checkpoint")
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {str(name): tensor for name, value in state.items() if (tensor := _as_tensor(value)) is not None}
    if not tensors:
        raise InputError("contains no weights", path, f"checkpoints have them under one of {', '.join(STATE_KEYS)}")
    return PeerFile(tensors, _config(content), path.suffix == ".pkl")


def _config(content: Mapping[Any, Any]) -> str:
    """The text of the training configuration: PySlowFast has it under `cfg`, MMAction2 in `meta`."""
    meta = content.get("meta")
    places = (content, meta) if isinstance(meta, Mapping) else (content,)
    found = (place.get(key) for place in places for key in ("cfg", "config"))
    return next((text for text in found if isinstance(text, str)), "")


def _read_torch(path: Path) -> Any:
    try:
        return read_torch(path.read_bytes())
    except RefusedError as error:
        raise InputError(f"refused: it would run {error}", path, TRUSTED) from None
    except PickleError as error:
        raise InputError(f"not a complete PyTorch file ({error})", path, WHOLE) from None


def read_plain(path: Path, where: object, trusted: str) -> Any:
    """Read the arrays and plain containers of a pickle. Raises InputError, with the fix `trusted` if it would run code.

    Arrays without numbers, for example of text, are replaced by placeholders.
    """
    data = path.read_bytes()
    budget = Budget(len(data))
    try:
        return PickleReader(data, Numpy(budget).calls(), budget).load()
    except RefusedError as error:
        raise InputError(f"refused: it would run {error}", where, trusted) from None
    except PickleError as error:
        raise InputError(f"not a complete pickle ({error})", where, WHOLE) from None


def _as_tensor(value: object) -> Tensor | None:
    """The value as a tensor, None if it is not an array of numbers (counters, learning rates, nested state)."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.dtype.itemsize <= 8:
        return torch.from_numpy(np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("=")))
    return None
