"""The folder of trained weights: `model.safetensors`, and beside it `checkpoint.json`, which records their digest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.documents import read_json_object
from slowfast_core.errors import InputError
from slowfast_core.once import RECORD, read_result

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONFIG = "model.safetensors", "checkpoint.json"
LEARNED_FROM = "learned_from.npy"  # hashes of the videos that the weights learned from (training/overlap.py)


def load_verified(folder: Path) -> dict[str, Tensor]:
    """The weights, after their digest was computed anew. Raises InputError when it is not the recorded one."""
    from slowfast_core.model.weights import load_weights

    return load_weights(folder / WEIGHTS, recorded_digest(folder))


def recorded_digest(folder: Path) -> str:
    """The digest in `checkpoint.json`. Raises InputError when the stage's result, where there is one, has another."""
    digest = str(read_record(folder)["weights_digest"])
    if (folder / RECORD).is_file() and (published := read_result(folder).weights_digest) != digest:
        what = f"two digests of the same weights: {digest} here, {published} in {RECORD}"
        raise InputError(what, folder / CONFIG, "restore the folder from a copy, or train or convert again")
    return digest


def read_record(folder: Path) -> dict[str, Any]:
    """What `checkpoint.json` records of the weights. Raises InputError when it records no digest of them."""
    path = folder / CONFIG
    record = read_json_object(path, "no readable JSON", "name a folder that `slowfast train` or `convert` wrote")
    if not isinstance(record.get("weights_digest"), str):
        raise InputError("does not record the digest of its weights", path, "train or convert it again")
    return record
