"""Prevents evaluation on training videos: each model records the videos that it and its start weights were trained on.

Some validation videos of Kinetics-600 are training videos of Kinetics-400, so a model trained on Kinetics-400 must not
be the start of a training on Kinetics-600. A video is recorded as two hashes of 8 bytes: of its id and of the content
of its clip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slowfast_core.errors import InputError
from slowfast_core.files import whole_file
from slowfast_core.model.folder import LEARNED_FROM

if TYPE_CHECKING:
    from slowfast_core.data.manifest import Manifest
    from slowfast_core.recipe.load import Recipe

HELD_OUT_IN = {"kinetics400": "kinetics600"}  # training videos of the first are validation videos of the second
FIX = "start from another model, or set train.allow_overlap"
Hashes = NDArray[np.uint64]


def write_learned_from(folder: Path, manifest: Manifest, start: Path | None) -> None:
    """Record the videos of the `train` split of `manifest`, and those recorded with the start weights in `start`."""
    before = _learned_from(start) if start else np.empty(0, np.uint64)
    with whole_file(folder / LEARNED_FROM) as temporary:
        np.save(temporary, np.union1d(_hashes(manifest.split("train")), before), allow_pickle=False)


def check_overlap(recipe: Recipe, manifest: Manifest, start: Path) -> list[str]:
    """Return notes for the log. Raises InputError when the weights in `start` were trained on `val` videos."""
    held_out = manifest.split("val")
    learned = _learned_from(start)
    same_id, same_content = np.isin(_hashes(held_out), learned).reshape(2, -1)
    seen = held_out.rows["video"][same_id | same_content]
    overlapping = [name for name, other in HELD_OUT_IN.items() if other == data_name(recipe)]
    trained_on = [name for name in overlapping if np.isin(_hashed("data", [name]), learned).any()]
    if not seen.empty:
        share = f"{len(seen):,} of the {len(held_out.rows):,} val clips, such as {seen.iloc[0]!r}"
        what = f"the start weights were trained on {share}"
    elif trained_on:
        name = data_name(recipe)
        what = f"the start weights were trained on {trained_on[0]}, which contains validation videos of {name}"
    else:
        unknown = "the start weights do not record which videos they were trained on"
        return [] if (start / LEARNED_FROM).is_file() else [unknown]
    if not recipe.train.allow_overlap:
        raise InputError(what, start, FIX)
    return [f"allowed: {what}"]


def data_name(recipe: Recipe) -> str:
    """Name of the data set; published data is named by its format and number of classes, not by the recipe."""
    classes = recipe.model.classes
    is_published = classes in recipe.data.annotation_format.published_classes
    return f"{recipe.data.format}{classes}" if is_published else recipe.data.name


def _learned_from(start: Path) -> Hashes:
    """Hashes of the recorded videos; without a record, the hash of the data set's name.

    Raises InputError when the record is damaged.
    """
    from slowfast_core.model.folder import read_checkpoint

    path = start / LEARNED_FROM
    if not path.is_file():
        return _hashed("data", [data_name(read_checkpoint(start)[0])])
    try:
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.uint64)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the record of training videos is damaged: {error}", path, "train that model again") from None


def _hashes(manifest: Manifest) -> Hashes:
    """Hashes of all video ids, then of all clip contents: `[2 N]` for N rows."""
    rows = manifest.rows
    return np.concatenate([_hashed("video", rows["video"]), _hashed("content", rows["sha256"])])


def _hashed(kind: str, names: Iterable[str]) -> Hashes:
    digests = b"".join(hashlib.blake2b(f"{kind} {name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
