"""The same frames are encoded to the same bytes, which makes the data version of a store reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slowfast_core.data.clip_store.encoding import ClipEncoder
from slowfast_core.files import sha256_of
from slowfast_core.recipe.data import Store

FRAMES, VIDEOS, TIMES = 16, 8, 12


def moving_discs(side: int, seed: int) -> np.ndarray:
    """`[T, side, side, 3]`: smooth frames with a moving disc, which exercise the encoder's motion search."""
    random = np.random.default_rng(seed)
    at, step = random.uniform(0, side, 2), random.uniform(-side / 20, side / 20, 2)
    y, x = np.mgrid[:side, :side]
    frames = np.empty((FRAMES, side, side, 3), np.uint8)
    for t in range(FRAMES):
        distance = np.hypot(y - (at[0] + t * step[0]) % side, x - (at[1] + t * step[1]) % side)
        shade = 60 + 120 * (distance < side / 5) + 40 * np.sin(x / side * 6)
        frames[t] = (shade[..., None] * random.uniform(0.9, 1, 3)).clip(0, 255)
    return frames


@pytest.mark.parametrize("side", [32, 112])
def test_small_clips_are_encoded_to_the_same_bytes(tmp_path: Path, side: int) -> None:
    for seed in range(VIDEOS):
        frames, digests = moving_discs(side, seed), set()
        for _ in range(TIMES):
            encoder = ClipEncoder(tmp_path / "clip.mp4", Store(short_side=0), 16.0, FRAMES)
            for frame in frames:
                encoder.add(frame)
            encoder.finish()
            digests.add(sha256_of(tmp_path / "clip.mp4"))
        assert len(digests) == 1, f"{len(digests)} different encodings"
