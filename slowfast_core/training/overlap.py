"""No model is evaluated on what it has learned from: beside its weights it keeps which videos those were.

Kinetics-600 has videos in its validation that Kinetics-400 trains on, so a model of the one is no start for the other.
The videos are kept as 8 bytes each, of their id and of their clip's content, with those that the start weights saw.
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

HELD_OUT_IN = {"kinetics400": "kinetics600"}  # training videos of the one are in the validation of the other
MEND = "start from another model, or set train.allow_overlap"
Hashes = NDArray[np.uint64]


def write_learned_from(folder: Path, manifest: Manifest, start: Path | None) -> None:
    """Keep what the `train` split of `manifest`, and the training in `start` before it, learned from."""
    before = _learned_from(start) if start else np.empty(0, np.uint64)
    with whole_file(folder / LEARNED_FROM) as temporary:
        np.save(temporary, np.union1d(_hashes(manifest.split("train")), before), allow_pickle=False)


def check_overlap(recipe: Recipe, manifest: Manifest, start: Path) -> list[str]:
    """Raises InputError when the training in `start` saw videos of the `val` split; else what is to be noted."""
    held_out, learned = manifest.split("val"), _learned_from(start)
    known = np.isin(_hashes(held_out), learned).reshape(2, -1)
    seen = held_out.rows["video"][known[0] | known[1]]
    names = [name for name, other in HELD_OUT_IN.items() if other == data_name(recipe)]
    behind = [name for name in names if np.isin(_hashed("data", [name]), learned).any()]
    if not seen.empty:
        share = f"{len(seen):,} of the {len(held_out.rows):,} val clips, such as {seen.iloc[0]!r}"
        what = f"the start weights were trained on {share}"
    elif behind:
        what = f"the start weights are of {behind[0]}, which trains on validation videos of {data_name(recipe)}"
    else:
        unknown = "the start weights do not tell which videos they were trained on"
        return [] if (start / LEARNED_FROM).is_file() else [unknown]
    if not recipe.train.allow_overlap:
        raise InputError(what, start, MEND)
    return [f"allowed: {what}"]


def data_name(recipe: Recipe) -> str:
    """Of the data set; an official Kinetics goes by its number of classes, whatever the recipe calls it."""
    classes = recipe.model.classes
    return f"kinetics{classes}" if recipe.data.format == "kinetics" and classes in (400, 600, 700) else recipe.data.name


def _learned_from(start: Path) -> Hashes:
    """Of the videos; of the name of the data set where the weights came without a list of them."""
    from slowfast_core.model.folder import read_checkpoint

    path = start / LEARNED_FROM
    if not path.is_file():
        return _hashed("data", [data_name(read_checkpoint(start)[0])])
    try:
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.uint64)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"damaged: {error}", path, "train the start weights again") from None


def _hashes(manifest: Manifest) -> Hashes:
    """Of all ids `[N]`, then of all contents `[N]`."""
    rows = manifest.rows
    return np.concatenate([_hashed("video", rows["video"]), _hashed("content", rows["sha256"])])


def _hashed(kind: str, names: Iterable[str]) -> Hashes:
    digests = b"".join(hashlib.blake2b(f"{kind} {name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
