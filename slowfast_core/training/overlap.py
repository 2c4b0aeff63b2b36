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

if TYPE_CHECKING:
    from slowfast_core.data.manifest import Manifest
    from slowfast_core.recipe import Recipe

FILE = "learned_from.npy"
HELD_OUT_IN = {"kinetics400": ("kinetics600", "kinetics700"), "kinetics600": ("kinetics700",)}  # by their names
MEND = "start from another model, or set train.allow_overlap"
Hashes = NDArray[np.uint64]


def write_learned_from(folder: Path, manifest: Manifest, start: Path | None) -> None:
    """Keep what the `train` split of `manifest`, and the training in `start` before it, learned from."""
    seen = _hashes(manifest.split("train"))
    before = _read(start / FILE) if start and (start / FILE).is_file() else np.empty(0, np.uint64)
    with whole_file(folder / FILE) as temporary:
        np.save(temporary, np.union1d(seen, before), allow_pickle=False)


def check_overlap(recipe: Recipe, manifest: Manifest, start: Path) -> str:
    """Raises InputError when the training in `start` saw videos of the `val` split; else what is to be noted, or ""."""
    held_out = manifest.split("val")
    if (start / FILE).is_file():
        known = np.isin(_hashes(held_out), _read(start / FILE)).reshape(2, -1)  # ids, contents
        seen = held_out.rows["video"][known[0] | known[1]]
        if seen.empty:
            return ""
        share = f"{len(seen):,} of the {len(held_out.rows):,} val clips, such as {seen.iloc[0]!r}"
        what = f"the start weights were trained on {share}"
    else:
        theirs, ours = _data_names(start, recipe)
        if ours not in HELD_OUT_IN.get(theirs, ()):
            return f"the start weights do not tell what they were trained on ({theirs})"
        what = f"the start weights are of {theirs}, whose training videos are among the validation of {ours}"
    if not recipe.train.allow_overlap:
        raise InputError(what, start, MEND)
    return f"allowed: {what}"


def _hashes(manifest: Manifest) -> Hashes:
    """Of all ids `[N]`, then of all contents `[N]`."""
    rows = manifest.rows
    return np.concatenate([_hashed("video", rows["video"]), _hashed("content", rows["sha256"])])


def _hashed(kind: str, names: Iterable[str]) -> Hashes:
    digests = b"".join(hashlib.blake2b(f"{kind} {name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _read(path: Path) -> Hashes:
    try:
        hashes = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"damaged: {error}", path, "train the start weights again") from None
    return np.asarray(hashes, dtype=np.uint64)


def _data_names(start: Path, recipe: Recipe) -> tuple[str, str]:
    """Of the data sets behind the start weights and of the recipe; a Kinetics by its classes, whatever its name."""
    from slowfast_core.evaluation.scoring import read_checkpoint

    def name(of: Recipe) -> str:
        official = of.data.format == "kinetics" and of.model.classes in (400, 600, 700)
        return f"kinetics{of.model.classes}" if official else of.data.name

    return name(read_checkpoint(start)[0]), name(recipe)
