"""Equal frames are encoded to equal bytes, whatever the encoder's memory contained before."""

import hashlib
import os
import subprocess
import sys

WRITE = """
import sys
from pathlib import Path
from slowfast_core.data.synthetic import write_ava
from slowfast_core.recipe.load import Synthetic
write_ava(Synthetic(train_videos=2, val_videos=1, size=32, fps=16, seconds=3, seed=3), Path(sys.argv[1]))
"""


def test_the_bytes_do_not_depend_on_uninitialised_memory(tmp_path):
    """MALLOC_PERTURB_ makes glibc fill allocated memory with a chosen byte."""
    digests = set()
    for fill in ("1", "85", "170", "255"):
        environment = {**os.environ, "MALLOC_PERTURB_": fill}
        subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / fill)], env=environment, check=True)
        videos = sorted((tmp_path / fill).rglob("*.mp4"))
        assert videos
        digests.add(hashlib.sha256(b"".join(video.read_bytes() for video in videos)).hexdigest())
    assert len(digests) == 1
