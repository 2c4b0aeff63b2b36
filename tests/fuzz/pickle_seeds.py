"""Valid files for the fuzz targets to edit: pickles of every protocol and writer, and both formats of `torch.save`."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch

PYTHON_2 = (
    b"(dS'blobs'\n(dS'conv1_w'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    b"(I1\n(I1\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?'\ntbss."
)


def pickles() -> list[bytes]:
    arrays = {
        "conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "swapped": np.arange(3, dtype=">f4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array(["a", "bc"]),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "fields": np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
        "times": np.array(["2001-01-01"], dtype="M8[D]"),
        "empty": np.empty((0, 5)),
        "flags": np.array([True, False]),
    }
    plain = {"lr": np.float32(0.1), "n": np.int64(3), "big": 2**70, "s": {1, 2}, "t": ("a", (1, None)), "b": b"ab"}
    contents = [
        {"blobs": {**arrays, **plain}},
        {"model_state": OrderedDict(w=arrays["conv1_w"]), "cfg": "DATA: {NUM_FRAMES: 8}"},
        boxes(),
    ]
    return [pickle.dumps(content, protocol) for content in contents for protocol in range(6)] + [PYTHON_2]


def box_pickles() -> list[bytes]:
    return [pickle.dumps(boxes(), protocol) for protocol in range(6)]


def boxes() -> dict[str, np.ndarray]:
    return {"one,0902": np.array([[0.1, 0.1, 0.5, 0.9, 0.95]]), "two,0903": np.zeros((0, 5), dtype=np.float32)}


def torch_files() -> list[bytes]:
    weight = torch.arange(12.0).reshape(3, 4)
    content = {
        "model_state": OrderedDict(w=weight, view=weight.t()[1:], half=weight.half(), flags=weight > 3),
        "meta": {"best": np.float64(0.7), "numbers": np.arange(3.0), "p": torch.nn.Parameter(weight[:1])},
        "optimizer": {"step": torch.tensor(3), "lr": 0.1},
    }
    written = []
    for new in (True, False):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=new)
        written.append(file.getvalue())
    return written


def rezipped(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A file of the new format with a changed `data.pkl` and correct checksums."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            content = source.read(entry)
            copy.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)
    return target.getvalue()
