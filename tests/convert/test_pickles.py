"""Incomplete or malicious checkpoints are refused in one line with exit code 2, and nothing is written."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers import caffe2_blobs, pyslowfast_state, random_network, write_pkl

from pipelines.cli.main import main
from slowfast_core.convert.pickles import read_peer_file
from slowfast_core.errors import InputError
from slowfast_core.recipe.schema import Clip, Model

TINY = Model(depth=18, width=8, beta=0.25, classes=5)
CLIP = Clip(T=4, tau=16, alpha=8)


class Payload:
    """Runs a command in the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


class Calls:
    """Calls a function in the process that unpickles it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_good(suffix: str) -> Path:
    path = Path(f"model{suffix}")
    state = random_network(TINY, CLIP).state_dict()
    if suffix == ".pkl":
        write_pkl(path, caffe2_blobs(state))
    else:
        torch.save({"model_state": pyslowfast_state(state)}, path)
    return path


def refusal(source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The line that `slowfast convert` prints; checks that it wrote nothing."""
    before = sorted(Path().rglob("*"))
    command = ["slowfast", "convert", "--from", "pyslowfast", str(source), "out", *options]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert sorted(Path().rglob("*")) == before
    return line


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -10_000])
@pytest.mark.parametrize("suffix", [".pyth", ".pkl"])
def test_a_truncated_file_is_refused(
    suffix: str, kept: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_good(suffix)
    path.write_bytes(path.read_bytes()[:kept])
    assert "not a complete" in refusal(path, monkeypatch, capsys)


@pytest.mark.parametrize("suffix", [".pyth", ".pkl"])
def test_a_pickle_that_would_run_code_is_refused(
    suffix: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_good(suffix)
    if suffix == ".pkl":
        write_pkl(path, {}, conv1_w=Payload())
    else:
        torch.save({"model_state": {"conv1_w": Payload()}}, path)
    assert f"refused: it would run {os.system.__module__}.system" in refusal(path, monkeypatch, capsys)
    assert not Path("ran").exists()


def test_a_checkpoint_of_another_depth_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(
        "name: own\ndata: {name: own}\n"
        "model: {depth: 34, width: 8, beta: 0.25, classes: 5, slow_frames: linspace}\n"
    )  # fmt: skip
    line = refusal(write_good(".pyth"), monkeypatch, capsys, "--recipe", "own.yaml")
    assert "model.depth is 18, not 34" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop", "1 missing (trunk.fast.stages.1.0.b.weight)"),
        ("add", "1 unexpected (s2.pathway2_res0.branch2.a.weight)"),
        ("cut", "1 with another shape (trunk.fast.stages.1.0.b.weight [4, 3, 1, 3, 3], here [4, 4, 1, 3, 3])"),
    ],
)
def test_missing_additional_and_misshapen_tensors_are_reported(
    change: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, name = write_good(".pyth"), "s3.pathway1_res0.branch2.b.weight"
    state = torch.load(path)["model_state"]
    if change == "drop":
        del state[name]
    elif change == "add":
        state["s2.pathway2_res0.branch2.a.weight"] = torch.zeros(1)
    else:
        state[name] = state[name][:, :3].clone()
    torch.save({"model_state": state}, path)
    assert message in refusal(path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("s1_fuse.conv_f2s.weight", torch.zeros(4, 2, 6, 1, 1), "must be odd, is 6"),
        ("s1_fuse.conv_f2s.weight", torch.zeros(4), "unknown network"),
        ("s1.pathway0_stem.conv.weight", torch.tensor(1.0), "unknown network"),
        ("head.projection.weight", None, "has no projection.weight"),
        ("s2.pathway0_res1.branch2.a.weight", None, "1 missing (trunk.slow.stages.0.1.a.weight)"),
    ],
)
def test_shapes_of_no_network_are_refused(
    name: str,
    value: torch.Tensor | None,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_good(".pyth")
    state = torch.load(path)["model_state"]
    state = {key: tensor for key, tensor in state.items() if key != name}
    torch.save({"model_state": state | ({} if value is None else {name: value})}, path)
    assert message in refusal(path, monkeypatch, capsys)


def test_a_file_of_another_codebase_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model_state": {"blocks.0.conv.weight": torch.zeros(2)}}, "v.pyth")
    assert "no tensor name belongs to pyslowfast's" in refusal(Path("v.pyth"), monkeypatch, capsys)


@pytest.mark.parametrize(
    "content", [[1, 2], "text", {}, {"blobs": {}}, {"model_state": {"lr": 0.1}}, {"blobs": {"w": np.array(["a"])}}]
)
def test_a_file_without_weights_is_refused(content: object, folder: Path) -> None:
    Path("model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"contains (no weights|a \w+, not a mapping)"):
        read_peer_file(Path("model.pkl"))


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Calls(eval, "open('ran', 'w')"), "builtins.eval"),
        (Calls(getattr, "text", "upper"), "builtins.getattr"),
        (Calls(np.load, "model.pkl"), "numpy.load"),
        (Calls(os.popen, "touch ran"), "os.popen"),
        (Calls(zipfile.ZipFile, "ran", "w"), "zipfile.ZipFile"),
        (Calls(torch.load, "model.pkl"), "torch.serialization.load"),
        (np.array([Payload()], dtype=object), f"{os.system.__module__}.system"),
        ({"deep": [{"deeper": (Payload(),)}]}, f"{os.system.__module__}.system"),
    ],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_only_arrays_and_containers_are_read(payload: object, name: str, protocol: int, folder: Path) -> None:
    Path("model.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": payload}}, protocol=protocol))
    with pytest.raises(InputError) as error:
        read_peer_file(Path("model.pkl"))
    shown = name.replace("builtins", "__builtin__") if protocol < 3 else name
    assert f"refused: it would run {shown} (model.pkl)" in str(error.value)
    assert not Path("ran").exists()


def test_encodings_other_than_latin_1_are_refused(folder: Path) -> None:
    stream = b"c_codecs\nencode\n(Vabc\nVrot13\ntR."
    Path("model.pkl").write_bytes(stream)
    with pytest.raises(InputError, match=r"_codecs\.encode with 'rot13'"):
        read_peer_file(Path("model.pkl"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_read(protocol: int, folder: Path) -> None:
    arrays = {"conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3), "swapped": np.arange(3, dtype=">f4")}
    content = {"blobs": {**arrays, "lr": np.float32(0.1), "name": "x", "wide": np.arange(4.0)}}
    Path("model.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    file = read_peer_file(Path("model.pkl"))
    assert file.caffe2
    assert set(file.state) == {"conv1_w", "swapped", "wide"}
    assert file.state["conv1_w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.state["swapped"].tolist() == [0, 1, 2]


def test_a_checkpoint_of_python_2_is_read(folder: Path) -> None:
    """Checkpoints of Caffe2 were written by it: text is bytes, and the buffer of an array a latin-1 string."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?'\ntb"
    )
    Path("model.pkl").write_bytes(b"(dS'blobs'\n(dS'conv1_w'\n" + array + b"ss.")
    assert read_peer_file(Path("model.pkl")).state["conv1_w"].tolist() == [1.0]


def test_numpy_scalars_next_to_the_weights_are_accepted(folder: Path) -> None:
    meta = {"best": np.float64(0.7), "epoch": np.int64(3), "numbers": np.arange(3.0)}
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": meta}, "model.pth")
    assert read_peer_file(Path("model.pth")).state["w"].tolist() == [1, 1]


def test_old_pytorch_files_are_read(folder: Path) -> None:
    torch.save(
        {"model_state": {"w": torch.ones(2)}, "cfg": "A: {B: 1}"}, "m.pyth", _use_new_zipfile_serialization=False
    )
    file = read_peer_file(Path("m.pyth"))
    assert file.config == "A: {B: 1}"
    assert file.state["w"].tolist() == [1, 1]


def test_a_missing_file_is_reported(folder: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        read_peer_file(Path("none.pyth"))
