"""Checkpoints crafted to crash their reader, run code or fill the memory; each is read in its own process."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast_core.convert.pickles import read_peer_file, read_plain
from slowfast_core.errors import InputError

READ = """
import json, os, resource, sys
from pathlib import Path
from slowfast_core.errors import InputError
from slowfast_core.data.person_boxes import read_person_boxes
from slowfast_core.convert.pickles import read_peer_file

def read(path):
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (8, 8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = ""
    try:
        read_person_boxes(path, path.name, 0.5) if "boxes" in path.name else read_peer_file(path)
    except InputError as error:
        message = str(error)  # the content of the file is freed after this block
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(json.dumps([path.name, message, grown]), flush=True)
    os._exit(0)

for path in sorted(Path(sys.argv[1]).iterdir()):
    child = os.fork() or read(path)
    print(json.dumps([path.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]), flush=True)
"""


def array(dtype: bytes, raw: bytes, flags: int = 0) -> bytes:
    """Opcodes of an array of one element as numpy writes them, but with these flags of its dtype."""
    state = b"(I3\nV|\nNNNI8\nI8\nI%d\ntb" % flags
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR(I1\n(I1\nt"
        b"cnumpy\ndtype\n(V" + dtype + b"\nI00\nI01\ntR" + state + b"I00\nC" + bytes([len(raw)]) + raw + b"tb"
    )


def mapping(value: bytes) -> bytes:
    return b"}Vblobs\n}Vw\n" + value + b"ss."


def zipped(content: bytes, **storages: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", content)
        for key, data in storages.items():
            archive.writestr(f"a/data/{key}", data)
    return file.getvalue()


def tensor(size: str, stride: str, offset: int = 0, length: int = 2) -> bytes:
    """Opcodes of a tensor in the storage `s`."""
    storage = b"(Vstorage\nctorch\nFloatStorage\nVs\nVcpu\nI%d\ntQ" % length
    arguments = storage + b"I%d\n(%bt(%btI00\nccollections\nOrderedDict\n)R" % (offset, size.encode(), stride.encode())
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


OBJECTS = array(b"O8", b"\x41" * 8, flags=1)  # eight bytes of the file as the address of an object
NESTED = b")" + b"\x85" * 200_000  # a tuple in a tuple in a tuple ...
TEXT = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000
HOSTILE = {
    "flags of a dtype.pkl": mapping(OBJECTS),
    "flags of a dtype, boxes.pkl": b"}Va,0902\n" + OBJECTS + b"s.",
    "flags of a dtype.pth": zipped(mapping(OBJECTS)),
    "nested key.pkl": b"}" + NESTED + b"Ns.",
    "nested key.pth": zipped(b"}" + NESTED + b"Ns."),
    "nested key, boxes.pkl": b"}" + NESTED + b"Ns.",
    "large memo.pkl": b"]r\xff\xff\xff\x3f.",
    "one text encoded often.pkl": b"](" + TEXT + b"q\x000" + b"c_codecs\nencode\nq\x01h\x00Vlatin1\n\x86R"
    + b"h\x01h\x00Vlatin1\n\x86R" * 3000 + b"e.",
    "one list ordered often.pkl": b"](]("
    + b"K\x00K\x01\x86" * 100_000 + b"eq\x00ccollections\nOrderedDict\nq\x01h\x00\x85R"
    + b"h\x01h\x00\x85R" * 3000 + b"e.",
    "bytes of any length.pkl": b"\x80\x05\x96" + struct.pack("<Q", 2**45) + b"ab.",
    "many sets.pkl": b"(" + b"\x8f" * 5_000_000 + b"l.",
    "keys of one hash.pkl": b"}(" + b"".join(
        b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in range(60_000)
    ) + b"u.",
    "a tensor beyond its storage.pth": zipped(b"}Vw\n" + tensor("I3\n", "I1\n") + b"s.", s=b"\0" * 8),
    "a tensor before its storage.pth": zipped(b"}Vw\n" + tensor("I1\n", "I1\n", -1) + b"s.", s=b"\0" * 8),
    "a tensor of terabytes.pth": zipped(b"}Vw\n" + tensor("I1099511627776\n", "I0\n") + b"s.", s=b"\0" * 8),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """For each file: message and growth in megabytes, if it was read, and the exit code (negative for a signal)."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, content in HOSTILE.items():
        (folder / name).write_bytes(content)
    done = subprocess.run([sys.executable, "-c", READ, folder], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[Any]] = {name: [] for name in HOSTILE}
    for name, *what in map(json.loads, done.stdout.splitlines()):
        found[name] += what
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_neither_crashes_the_reader_nor_fills_the_memory(
    name: str, outcomes: dict[str, list[Any]]
) -> None:
    *refused, code = outcomes[name]
    assert code == 0
    message, megabytes = refused
    assert name in message
    assert megabytes < 700


def test_an_array_whose_shape_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(mapping(array(b"f8", b"\0" * 8)).replace(b"(I1\n(I1\nt", b"(I1\n(I9\nt"))
    with pytest.raises(InputError, match="whose shape does not fit its bytes"):
        read_peer_file(path)


def test_flags_of_a_plain_dtype_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(mapping(array(b"f8", struct.pack("=d", 1.5), flags=63)))
    weights = read_peer_file(path).state["w"]
    assert (weights.dtype, weights.tolist()) == (torch.float64, [1.5])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("code", ["?", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_arrays_of_every_plain_dtype_order_and_shape_are_read(code: str, protocol: int, tmp_path: Path) -> None:
    numbers = np.arange(24).reshape(2, 3, 4)
    content = {
        "little": numbers.astype(f"<{code}" if code != "?" else code),
        "big": numbers.astype(f">{code}" if code != "?" else code),
        "fortran": np.asfortranarray(numbers.astype(code)),
        "swapped axes": numbers.astype(code).transpose(1, 0, 2),
        "none": np.empty((3, 0), code),
        "one": np.array(7, code),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    read = read_plain(path, path, "")
    assert list(read) == list(content)
    for name, expected in content.items():
        assert read[name].dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert read[name].shape == expected.shape
        np.testing.assert_array_equal(read[name], expected)


@pytest.mark.parametrize("new", [True, False])
def test_tensors_equal_those_read_by_torch(new: bool, tmp_path: Path) -> None:
    weight = torch.arange(24.0).reshape(4, 6)
    kinds = (
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int8,
        torch.int16,
        torch.int64,
        torch.uint8,
        torch.bool,
    )
    state = {
        "view": weight[1:, ::2].t(),
        "parameter": torch.nn.Parameter(weight),
        "scalar": torch.tensor(3),
        "none": torch.empty(3, 0),
        **{str(kind): weight.to(kind) for kind in kinds},
    }
    path = tmp_path / "model.pth"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=new)
    read = read_peer_file(path).state
    for name, expected in torch.load(path, weights_only=True)["state_dict"].items():
        assert read[name].dtype == expected.dtype
        assert torch.equal(read[name], expected), name
