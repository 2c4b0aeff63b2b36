from __future__ import annotations

from pathlib import Path

import pytest
from videos import moving_frames, write_video

from slowfast_core.data.clip_store.encoding import ClipEncoder
from slowfast_core.data.video.decoding import decode_range
from slowfast_core.data.video.originals import examine, read_in_order
from slowfast_core.files import sha256_of
from slowfast_core.recipe.load import Store


@pytest.mark.parametrize("size", [(32, 32), (64, 32)])
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, size: tuple[int, int]) -> None:
    """Decoding in between changes which memory the encoder gets."""
    video = write_video(tmp_path / "a.mp4", moving_frames(16, *size), fps=8)
    frames = list(decode_range(video, 0, 16))
    digests = set()
    for _ in range(40):
        list(decode_range(video, 0, 16))
        list(read_in_order(examine(video), 0, 16))
        encoder = ClipEncoder(tmp_path / "stored.mp4", Store(short_side=0, gop=8), 8.0, 16)
        for frame in frames:
            encoder.add(frame)
        encoder.finish()
        digests.add(sha256_of(tmp_path / "stored.mp4"))
    assert len(digests) == 1
