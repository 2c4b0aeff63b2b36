"""The folder of a trained model: `model.safetensors` holds the weights, `checkpoint.json` describes them.

A model is named by such a folder or, in the MLflow registry, by `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
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
LEARNED_FROM = "learned_from.npy"  # hashes of the videos that the weights were trained on (training/overlap.py)


def load_verified(folder: Path) -> dict[str, Tensor]:
    """Load the weights and compute their digest. Raises InputError when it differs from the recorded one."""
    from slowfast_core.model.weights import load_weights

    return load_weights(folder / WEIGHTS, recorded_digest(folder))


def recorded_digest(folder: Path) -> str:
    """The digest in `checkpoint.json`. Raises InputError when the stage result (if any) records a different one."""
    digest = str(read_record(folder)["weights_digest"])
    if (folder / RECORD).is_file() and (published := read_result(folder).weights_digest) != digest:
        what = f"the weights have digest {digest} here, but {published} in {RECORD}"
        raise InputError(what, folder / CONFIG, "restore the folder from a copy, or train or convert again")
    return digest


def read_record(folder: Path) -> dict[str, Any]:
    """Read `checkpoint.json`. Raises InputError when it is unreadable or has no digest of the weights."""
    path = folder / CONFIG
    record = read_json_object(path, "no readable JSON", "name a folder that `slowfast train` or `convert` wrote")
    if not isinstance(record.get("weights_digest"), str):
        raise InputError("the digest of the weights is missing", path, "train or convert the model again")
    return record


def read_checkpoint(folder: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe and the label names of a trained model. Raises InputError when `checkpoint.json` lacks them."""
    path = folder / CONFIG
    fix = "give a folder written by `slowfast train`"
    record = read_json_object(path, "no checkpoint", fix)
    labels = record.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError("not a checkpoint: it has no label names", path, fix)
    return parse_recipe({k: v for k, v in record.items() if k not in RECORD_EXTRAS}, str(path)), tuple(labels)


@contextmanager
def checkpoint_of(model: str, at: Workspace, uri: str | None = None) -> Iterator[Path]:
    """Yield the folder of a model; a registered model is downloaded to a folder that is deleted afterwards.

    `uri` is the address of the registry (default: the workspace's).
    """
    if model.startswith("models:"):
        with tempfile.TemporaryDirectory() as folder:
            yield _download(model, at, uri or at.tracking_uri, Path(folder))
        return
    local = Path(model)
    for name in (WEIGHTS, CONFIG):
        if not (local / name).is_file():
            fix = "name a checkpoint folder, or a registered model as models:/NAME@champion"
            raise InputError(f"no {name}", model, fix)
    yield local


def _download(model: str, at: Workspace, uri: str, folder: Path) -> Path:
    if not MODEL_URI.fullmatch(model):
        fix = "write models:/NAME@champion or models:/NAME/3"
        raise InputError(f"{model!r} is not a model version", "--model", fix)
    database = at.below("mlflow.db")
    if uri == at.tracking_uri and not database.is_file():
        raise InputError("no model registry", database, "run `slowfast run RECIPE` or name --workspace")
    from slowfast_core.tracking.registry import download_version

    downloaded = download_version(model, uri, folder)
    checkpoint = downloaded.folder / "artifacts"
    if (digest := recorded_digest(checkpoint)) != downloaded.weights_digest:
        what = f"the weights differ from the registered ones: their digest is {digest}"
        what += f", the model version is tagged with {downloaded.weights_digest}"
        raise InputError(what, downloaded.source, "restore the version's artifacts, or register the model again")
    return checkpoint


def files_of(folder: Path) -> dict[str, Path]:
    """Paths of the files that are uploaded to the registry with a model version."""
    files = {"weights": folder / WEIGHTS, "config": folder / CONFIG}
    if (folder / LEARNED_FROM).is_file():  # trainings that start from this model must not evaluate on its videos
        files["learned_from"] = folder / LEARNED_FROM
    return files
