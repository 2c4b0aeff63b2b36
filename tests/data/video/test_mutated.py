"""Damaged files are stored with correct frames or quarantined with a reason, and never cause a hang."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from mutations import MUTATIONS
from test_exactness import check_store
from video_kinds import KINDS, colourful_frames
from videos import Staged, official_csv, run_data_stages

WHOLE = [kind for kind in KINDS if kind != "sound_only"]


def mutated_files(folder: Path, count: int, seed: int = 4) -> list[Path]:
    """Damage files of all kinds in turn; the damage of file n depends only on the seed and n."""
    av.logging.set_level(av.logging.PANIC)
    originals = {kind: KINDS[kind](folder / "whole" / kind, colourful_frames(seed=99)) for kind in WHOLE[:count]}
    files = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        kind, mutation = WHOLE[number % len(WHOLE)], MUTATIONS[int(random.integers(len(MUTATIONS)))]
        target = folder / "source" / f"{mutation.__name__}{number}-{kind}_000000_000004{originals[kind].suffix}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(mutation(originals[kind].read_bytes(), random))
        files.append(target)
    official_csv(files, folder / "source" / "annotations.csv")
    return files


def check_all(root: Path, count: int) -> Staged:
    files = mutated_files(root, count)
    for number in range(4):  # intact files, so that both splits have a good row with any encoder
        name = f"whole{number}-h264_000000_000004.mp4"
        files.append(Path(shutil.copy(next((root / "whole").glob("h264.*")), root / "source" / name)))
    official_csv(files, root / "source" / "annotations.csv")
    staged = run_data_stages(root / "source", root, decode_timeout_seconds=20, decode_memory_mb=1500)
    assert {*staged.rows["id"], *staged.quarantine} == {file.stem for file in files}
    assert not {*staged.rows["id"]} & {*staged.quarantine}
    assert all(staged.quarantine.values())
    check_store(staged, 22)
    return staged


def test_a_sample_of_damaged_files_is_stored_or_quarantined(tmp_path: Path) -> None:
    staged = check_all(tmp_path, 24)
    assert len(staged.rows) >= 6
    assert len(staged.quarantine) >= 10


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_many_damaged_files_are_stored_or_quarantined(tmp_path: Path) -> None:
    staged = check_all(tmp_path, 300)
    print(f"{len(staged.rows)} in the store, {len(staged.quarantine)} in quarantine")


def memory_growth(folder: Path, times: int) -> float:
    """Megabytes by which a process grows when it opens files this often, after the first fifth."""
    code = """
import resource, sys
from pathlib import Path
from slowfast_core.data.video.info import DecodeError
from slowfast_core.data.video.decoding import inspect, pick_frames

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

files, times = sorted(Path(sys.argv[1]).iterdir()), int(sys.argv[2])
for number in range(times):
    if number == times // 5:
        before = resident()
    file = files[number % len(files)]
    try:
        if number // len(files) % 2:
            inspect(file, 1)
        else:
            pick_frames(file, [0, 3])
    except DecodeError:
        pass
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, folder, str(times)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def some_files(folder: Path) -> Path:
    """Intact and damaged files."""
    mutated_files(folder, 24)
    for kind in ("h264", "h264_ts", "rotated_90", "h264_variable_rate", "vp9", "trimmed"):
        KINDS[kind](folder / "source" / kind, colourful_frames(12))
    return folder / "source"


def test_memory_does_not_grow(tmp_path: Path) -> None:
    assert memory_growth(some_files(tmp_path), 300) < 30


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_over_five_thousand_opens(tmp_path: Path) -> None:
    grown = memory_growth(some_files(tmp_path), 5000)
    print(f"{grown:+.1f} MB")
    assert grown < 30
