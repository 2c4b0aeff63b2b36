"""The trained-model folder: `model.safetensors`, and `checkpoint.json`, which records what they are.

A model is named by such a folder or, in the registry, as `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.documents import read_json_object
from slowfast_core.errors import InputError
from slowfast_core.once import RECORD, read_result
from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONFIG = "model.safetensors", "checkpoint.json"
RECORD_EXTRAS = ("labels", "data_version", "parent_checkpoint", "run_id", "weights_digest", "converted_from")
MODEL_URI = re.compile(r"models:/[^/@]+(/\d+|@[^/@]+)")
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


def read_checkpoint(folder: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe and the label names kept beside the weights. Raises InputError when there are none."""
    path = folder / CONFIG
    fix = "give a folder written by `slowfast train`"
    record = read_json_object(path, "no checkpoint", fix)
    labels = record.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError("no checkpoint: it has no label names", path, fix)
    return parse_recipe({k: v for k, v in record.items() if k not in RECORD_EXTRAS}, str(path)), tuple(labels)


@contextmanager
def checkpoint_of(model: str, at: Workspace, uri: str | None = None) -> Iterator[Path]:
    """The folder with the weights and their config; that of a registered model is there only within the context.

    `uri` is that of the registry; None: the workspace's.
    """
    if model.startswith("models:"):
        with tempfile.TemporaryDirectory() as folder:
            yield _download(model, at, uri or at.tracking_uri, Path(folder))
        return
    folder_of_files = Path(model)
    for name in (WEIGHTS, CONFIG):
        if not (folder_of_files / name).is_file():
            mend = "name a checkpoint folder, or a registered model as models:/NAME@champion"
            raise InputError(f"no {name}", model, mend)
    yield folder_of_files


def _download(model: str, at: Workspace, uri: str, folder: Path) -> Path:
    if not MODEL_URI.fullmatch(model):
        raise InputError(f"{model!r} is no model version", "--model", "write models:/NAME@champion or models:/NAME/3")
    database = at.below("mlflow.db")
    if uri == at.tracking_uri and not database.is_file():
        raise InputError("no model registry", database, "run `slowfast run RECIPE` or name --workspace")
    from slowfast_core.tracking.registry import download_version

    downloaded = download_version(model, uri, folder)
    checkpoint = downloaded.folder / "artifacts"
    if (digest := recorded_digest(checkpoint)) != downloaded.weights_digest:
        what = f"other weights than were registered: their digest is {digest}"
        what += f", the version's tag has {downloaded.weights_digest}"
        raise InputError(what, downloaded.source, "restore the version's artifacts, or register the model again")
    return checkpoint


def files_of(folder: Path) -> dict[str, Path]:
    """The files that travel with the weights to the registry."""
    files = {"weights": folder / WEIGHTS, "config": folder / CONFIG}
    if (folder / LEARNED_FROM).is_file():  # who starts from this model is kept from evaluating on its videos
        files["learned_from"] = folder / LEARNED_FROM
    return files
