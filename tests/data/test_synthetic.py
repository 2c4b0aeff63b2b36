"""The generated data sets have official files, reproducible bytes, and classes that only motion distinguishes."""

import csv
import hashlib
import json
from pathlib import Path

import decord
import numpy as np
import pytest

from slowfast_core.data import synthetic
from slowfast_core.data.synthetic import MOTIONS, write_ava, write_kinetics
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Synthetic

SMALL = Synthetic(train_videos=2, val_videos=1, size=32, seconds=3, fps=16, seed=3)
PAIRS = [MOTIONS[i : i + 2] for i in range(0, len(MOTIONS), 2)]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinetics") / "set"
    write_kinetics(SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def ava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ava") / "set"
    write_ava(SMALL.model_copy(update={"train_videos": 24, "val_videos": 2}), folder)
    return folder


@pytest.mark.parametrize("write", [write_kinetics, write_ava])
def test_same_settings_give_the_same_bytes(write, tmp_path):
    write(SMALL, tmp_path / "a")
    write(SMALL, tmp_path / "b")
    write(SMALL.model_copy(update={"seed": 4}), tmp_path / "c")
    first = digests(tmp_path / "a")
    assert first == digests(tmp_path / "b")
    videos = {d for name, d in first.items() if name.endswith(".mp4")}
    assert len(videos) == sum(name.endswith(".mp4") for name in first)
    assert not videos & set(digests(tmp_path / "c").values())


def test_a_set_is_written_again_only_if_its_settings_change(tmp_path):
    folder = tmp_path / "set"
    write_kinetics(SMALL, folder)
    (folder / "mark").touch()
    write_kinetics(SMALL, folder)
    assert (folder / "mark").exists()
    write_kinetics(SMALL.model_copy(update={"val_videos": 2}), folder)
    assert not (folder / "mark").exists()
    assert json.loads((folder / "settings.json").read_text())["val_videos"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / ".set.writing").mkdir()
    (tmp_path / ".set.writing" / "incomplete.mp4").touch()
    write_kinetics(SMALL, tmp_path / "set")
    assert not list((tmp_path / "set").rglob("incomplete.mp4"))


def test_an_odd_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="even size"):
        write_kinetics(SMALL.model_copy(update={"size": 33}), tmp_path / "set")


@pytest.mark.parametrize(("split", "videos"), [("train", 2), ("val", 1)])
def test_kinetics_csv_lists_every_video(kinetics, split, videos):
    header, *rows = read_csv(kinetics / f"{split}.csv")
    assert header == ["label", "youtube_id", "time_start", "time_end", "split"]
    assert sorted(row[0] for row in rows) == sorted(MOTIONS * videos)
    assert len({row[1] for row in rows}) == len(rows)
    for label, video, start, end, named in rows:
        assert named == split
        assert int(end) - int(start) == SMALL.seconds
        assert (kinetics / "videos" / label / f"{video}_{int(start):06d}_{int(end):06d}.mp4").is_file()


def test_videos_are_decoded_completely(kinetics, ava):
    for folder, side in ((kinetics, SMALL.size), (ava, 2 * SMALL.size)):
        for path in folder.rglob("*.mp4"):
            reader = decord.VideoReader(str(path))
            assert reader.get_batch(range(len(reader))).shape == (SMALL.seconds * SMALL.fps, side, side, 3)
            assert reader.get_avg_fps() == SMALL.fps


def test_ava_files_have_the_official_format(ava):
    rows = read_csv(ava / "train.csv")
    assert {len(row) for row in rows} == {8}
    assert {row[1] for row in rows} == {"0001", "0002"}
    assert {int(row[6]) for row in rows} == set(range(1, 9))
    videos = {row[0] for row in rows}
    assert len(videos) == 24
    assert videos | {row[0] for row in read_csv(ava / "val.csv")} == {p.stem for p in (ava / "videos").iterdir()}
    assert not videos & {row[0] for row in read_csv(ava / "val.csv")}
    labels = (ava / "labels.pbtxt").read_text()
    assert all(f'item {{\n  name: "{name}"\n  id: {i}\n}}\n' in labels for i, name in enumerate(MOTIONS, start=1))
    actions: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        actions.setdefault((row[0], row[1], row[7], *row[2:6]), []).append(row[6])
    assert {len(set(acts)) for acts in actions.values()} == {1, 2}
    assert {len({key[2] for key in actions if key[0] == video}) for video in videos} == {2, 3}
    assert len({key[3:] for key in actions}) > 0.9 * len(actions)  # boxes move from key frame to key frame


def test_ava_boxes_contain_their_actors(ava):
    """At key frames, nearly all foreground pixels are inside the boxes, of which they fill a good part."""
    side = 2 * SMALL.size
    frames: dict[tuple[str, str], set[tuple[float, ...]]] = {}
    for row in read_csv(ava / "train.csv"):
        frames.setdefault((row[0], row[1]), set()).add(tuple(float(v) for v in row[2:6]))
    shares = []
    for (video, second), boxes in frames.items():
        reader = decord.VideoReader(str(ava / "videos" / f"{video}.mp4"))
        picture = reader[int(second) * SMALL.fps].asnumpy().astype(float)
        actor = abs(picture - np.median(picture, axis=(0, 1))).max(2) > 3 * synthetic.CLUTTER
        for x1, y1, x2, y2 in boxes:
            assert 0 <= x1 < x2 <= 1
            assert 0 <= y1 < y2 <= 1
            top, bottom, left, right = (round(v * side) for v in (y1, y2, x1, x2))
            shares.append(actor[top:bottom, left:right].mean())
            actor[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = False
        assert actor.mean() < 0.002
    assert min(shares) > 0.2
    assert np.mean(shares) > 0.4


def states(label: str) -> np.ndarray:
    """The sprite's state [F, 5]: x, y, cosine and sine of twice its angle (half a turn maps it to itself), size."""
    path = synthetic._path(np.random.default_rng(0), [label], np.array([9.0, 9.0]), np.zeros(2), 0.2, 48, 64)
    return np.stack([path.x, path.y, np.cos(2 * path.angle), np.sin(2 * path.angle), path.scale], axis=1)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_slow_pathway_cannot_distinguish_the_classes_of_a_pair(pair):
    one, other = (states(label) for label in pair)
    if pair[0].startswith("sliding"):  # in every eighth frame, a sliding sprite is at the same place
        assert np.ptp(one[::8], axis=0).max() < 1e-3
        assert np.ptp(other[::8], axis=0).max() < 1e-3
    else:
        np.testing.assert_allclose(one[::8], other[::8], atol=1e-3)
    assert abs(one[::2] - other[::2]).max() > 0.3


def clips(count: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` rendered grey clips [N, F, H, W] of each class, and their classes [N]."""
    videos, labels = [], []
    for index in range(count):
        for motion, label in enumerate(MOTIONS):
            random = np.random.default_rng([offset, index, motion])
            videos.append(synthetic._kinetics_frames(SMALL, label, random).mean(3))
            labels.append(motion)
    return np.array(videos, dtype=np.float32), np.array(labels)


def probe(train: np.ndarray, train_labels: np.ndarray, held_out: np.ndarray, labels: np.ndarray) -> float:
    """Held-out accuracy of ridge regression onto the classes."""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    a, b = ((np.c_[(x - mean) / spread, np.ones(len(x))]).astype(np.float64) for x in (train, held_out))
    weights = np.linalg.solve(a.T @ a + 10 * np.eye(a.shape[1]), a.T @ np.eye(len(MOTIONS))[train_labels])
    return float(((b @ weights).argmax(1) == labels).mean())


def test_only_motion_distinguishes_the_classes():
    """A linear probe is near chance (1/8) on single frames, and above it on differences of frames at various lags."""

    def frame(videos: np.ndarray) -> np.ndarray:
        picture = videos[:, 20].reshape(len(videos), 8, 4, 8, 4)
        return np.concatenate([picture.mean((2, 4)), picture.std((2, 4))], axis=1).reshape(len(videos), -1)

    def motion(videos: np.ndarray) -> np.ndarray:
        lags = [abs(videos[:, lag:] - videos[:, :-lag]).mean((1, 2, 3)) for lag in range(1, 17)]
        lags = np.stack(lags, axis=1)
        return np.concatenate([lags, lags / lags.sum(1, keepdims=True)], axis=1)

    videos, labels = clips(60, offset=1)
    held_out, truth = clips(40, offset=2)
    assert probe(frame(videos), labels, frame(held_out), truth) < 0.2
    assert probe(motion(videos), labels, motion(held_out), truth) > 0.4
