"""Scores of videos: each video is decoded once; reading ahead or a store of every second frame changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import reference_frames
from video_kinds import KINDS, colourful_frames
from videos import moving_frames, psnr, write_video

from slowfast_core.data.video.decoding import pick_frames
from slowfast_core.errors import InputError
from slowfast_core.evaluation.scoring import Scorer
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.recipe.load import Store, parse_recipe

RECIPE = {
    "name": "tiny",
    "data": {"name": "some"},
    "clip": {"T": 2, "tau": 4, "alpha": 2},
    "model": {"depth": 18, "width": 8, "beta": 0.25, "classes": 3},
    "evaluate": {"clips": 4, "crops": 3, "size": 32, "batch_views": 3},
}


def write_clip(path: Path, frames: NDArray[np.uint8], fps: int = 10) -> Path:
    return write_video(path, frames, fps, gop=4, b_frames=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    recipe = parse_recipe(RECIPE)
    torch.manual_seed(0)
    weights = build_model(recipe.model, recipe.clip).state_dict()
    save_weights(folder / "model.safetensors", weights)
    record = {"labels": ["a", "b", "c"], "weights_digest": weights_digest(weights)}
    (folder / "checkpoint.json").write_text(json.dumps({**json.loads(recipe.to_json()), **record}))
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("videos")
    lengths = (20, 5, 33, 12, 9)
    return [write_clip(root / f"{n}.mp4", moving_frames(length, seed=n)) for n, length in enumerate(lengths)]


@pytest.mark.parametrize("readers", [1, 3, 8])
def test_reading_ahead_changes_nothing(checkpoint: Path, videos: list[Path], readers: int) -> None:
    scorer = Scorer(checkpoint, store=Store())
    ahead = list(scorer.score_videos(videos, readers))
    assert len(ahead) == 5
    for scored, video in zip(ahead, videos, strict=True):
        assert scored.decode_seconds > 0
        assert scored.inference_seconds > 0
        assert np.array_equal(scored.scores, scorer.score_video(video))
        assert np.array_equal(scored.scores, Scorer(checkpoint).score_video(video))  # decoded like any video file


def test_each_frame_of_a_video_is_decoded_once(checkpoint: Path, videos: list[Path]) -> None:
    video = Scorer(checkpoint, store=Store()).read(videos[2])
    starts = [25 * i // 3 for i in range(4)]
    clips = [[start + 2 * i for i in range(4)] for start in starts]
    unique = sorted({i for clip in clips for i in clip})
    assert np.array_equal(video.frames.numpy(), pick_frames(videos[2], unique))
    assert [[unique[place] for place in clip] for clip in video.clips] == clips


@pytest.mark.parametrize("kind", ["rotated_90", "h264_open_gop", "h264_ts", "trimmed", "mpeg4_b_frames"])
def test_frames_of_a_video_equal_those_of_a_player(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path / kind, colourful_frames())
    video = Scorer(checkpoint).read(path)
    shown = reference_frames(path, video.info.fps, video.info.frames)
    assert video.info.frames == (30 if kind == "trimmed" else 40)
    found = [int(np.argmax([psnr(frame, picture) for picture in shown])) for frame in video.frames.numpy()]
    starts = [(video.info.frames - 8) * i // 3 for i in range(4)]
    assert [[found[place] for place in clip] for clip in video.clips] == [[s + 2 * i for i in range(4)] for s in starts]


def test_batches_have_at_most_batch_views_views(checkpoint: Path, videos: list[Path]) -> None:
    scorer = Scorer(checkpoint, store=Store())
    batches = [len(clips) for clips in scorer.views(scorer.read(videos[0]))]
    assert batches == [3, 1] * 3


def test_a_store_of_every_second_frame_has_the_same_clips(checkpoint: Path, tmp_path: Path) -> None:
    frames = moving_frames(32)
    write_clip(tmp_path / "all.mp4", frames)
    write_clip(tmp_path / "half.mp4", frames[::2], fps=5)
    whole = Scorer(checkpoint, store=Store()).read(tmp_path / "all.mp4")
    half = Scorer(checkpoint, store=Store(every=2)).read(tmp_path / "half.mp4")
    assert len(half.frames) == 16
    assert [max(clip) - min(clip) for clip in half.clips] == [3] * 4
    assert whole.info.seconds == half.info.seconds
    assert (half.frames[half.clips[0]].int() - whole.frames[whole.clips[0]].int()).abs().float().mean() < 4


def test_an_undecodable_video_is_named(checkpoint: Path, videos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    scored = Scorer(checkpoint, store=Store()).score_videos([videos[0], tmp_path / "bad.mp4", videos[1]])
    assert next(scored).scores.shape == (3,)
    with pytest.raises(InputError, match=r"cannot decode: not a readable clip"):
        next(scored)
