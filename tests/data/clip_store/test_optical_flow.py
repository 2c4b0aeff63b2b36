"""Optical flow: its values, its files in the clip store, and a network that is trained on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from videos import Frames, ingested, kinetics_row, write_video

from slowfast_core.data.clip_store import optical_flow as flow
from slowfast_core.data.clip_store.optical_flow import (
    LIMIT,
    NO_MOTION,
    STEPS,
    decode_with_flow,
    flow_file,
    frame_flow,
    quantise,
)
from slowfast_core.data.loading.dataset import Batch, Sample, TrainingClips
from slowfast_core.data.loading.render import FLOW_STD, render
from slowfast_core.data.loading.sampling import View
from slowfast_core.data.manifest import read_manifest
from slowfast_core.data.video.decoding import pick_frames
from slowfast_core.data.video.info import DecodeError
from slowfast_core.errors import InputError
from slowfast_core.evaluation.scoring import Scorer
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Data, Pixels, Recipe, Store, parse_recipe
from slowfast_core.stages.extract import extract
from slowfast_core.stages.validate import validate
from slowfast_core.training.checks import check_data
from slowfast_core.training.step import forward_loss, make_optimizer

RECIPE = {
    "name": "tiny_flow",
    "data": {"name": "some", "store": {"short_side": 0, "flow": True}},
    "clip": {"T": 2, "tau": 4, "alpha": 2},
    "model": {"depth": 18, "width": 8, "beta": 0.25, "classes": 2, "fast_input": "flow"},
    "train": {"batch": 2, "epochs": 1, "warmup_epochs": 0, "jitter": [36, 40], "crop": 32},
    "evaluate": {"clips": 2, "crops": 1, "size": 32},
}
SHIFT_X, SHIFT_Y = 3, -2  # pixels per frame


def shifted_frames(count: int, x: int = SHIFT_X, y: int = SHIFT_Y, seed: int = 0) -> Frames:
    """A smooth texture of 48 x 64 that moves by whole pixels."""
    noise = np.random.default_rng(seed).normal(size=(96, 128, 3))
    for axis in (0, 1):
        for _ in range(4):
            noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) / 4
    picture = (128 + noise * 60 / noise.std()).clip(0, 255).astype(np.uint8)
    return np.stack([np.roll(picture, (i * y, i * x), (0, 1))[24:72, 32:96] for i in range(count)])


def pixels(quantised: Frames) -> NDArray[np.float64]:
    return (quantised.astype(float) - NO_MOTION) * LIMIT / STEPS


def settings(with_flow: bool = True) -> Data:
    return Data(name="some", store=Store(short_side=0, crf=10, flow=with_flow))


def recipe() -> Recipe:
    return parse_recipe(json.loads(json.dumps(RECIPE)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flow")
    for number, x in enumerate((SHIFT_X, -SHIFT_X, SHIFT_X)):
        write_video(root / "videos" / f"{number}.mp4", shifted_frames(14, x, seed=number))
    rows = [
        kinetics_row("a", "videos/0.mp4"),
        kinetics_row("b", "videos/1.mp4", label=1),
        kinetics_row("c", "videos/2.mp4", split="val"),
    ]
    validate(settings(), ingested(root, rows), root / "validate")
    return root


def run(root: Path, name: str, with_flow: bool = True, workers: int = 2) -> StageResult:
    data = settings(with_flow)
    return extract(data, recipe().clip, root / "ingest", root / "validate", root / name, workers)


@pytest.fixture(scope="module")
def result(root: Path) -> StageResult:
    return run(root, "extract")


@pytest.fixture(scope="module")
def store(result: StageResult) -> Path:
    return Path(result.outputs["store"])


def test_flow_of_a_shifted_picture_is_the_shift() -> None:
    previous, frame = shifted_frames(2)
    inner = pixels(frame_flow(previous, frame))[10:-10, 10:-10]
    assert np.median(inner[..., 0]) == pytest.approx(SHIFT_X, rel=0.1)
    assert np.median(inner[..., 1]) == pytest.approx(SHIFT_Y, rel=0.1)
    assert (frame_flow(frame, frame) == NO_MOTION).all()


def test_quantised_flow_is_accurate_and_clipped_at_the_limit() -> None:
    values = np.linspace(-LIMIT, LIMIT, 1001, dtype=np.float32)
    assert np.abs(pixels(quantise(values)) - values).max() <= LIMIT / STEPS / 2 + 1e-6
    assert pixels(quantise(np.float32([0, 1e6, -1e6]))).tolist() == [0, LIMIT, -LIMIT]
    assert np.array_equal(quantise(-values), (256 - quantise(values).astype(int)))


def test_the_store_has_the_flow_of_its_own_frames(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, indices = store / "clips" / "a.mp4", [0, 1, 5, 13, 13]
    stored = decode_with_flow(clip, indices)
    assert (stored.shape, stored.dtype) == ((5, 48, 64, 5), np.uint8)
    assert np.array_equal(stored[..., :3], pick_frames(clip, indices))
    assert (stored[0, ..., 3:] == NO_MOTION).all()
    assert np.median(pixels(stored[2, 10:-10, 10:-10, 3])) == pytest.approx(SHIFT_X, rel=0.1)
    monkeypatch.setattr(flow, "flow_file", lambda video: Path("none"))
    assert np.array_equal(decode_with_flow(clip, indices), stored)


def test_flow_is_part_of_the_data_version(root: Path, result: StageResult) -> None:
    plain = run(root, "plain", with_flow=False)
    assert plain.data_version != result.data_version
    assert run(root, "one_worker", workers=1).data_version == result.data_version
    for clip in ("a.mp4", "b.mp4", "c.mp4"):
        there, here = (Path(each.outputs["store"]) / "clips" / clip for each in (plain, result))
        assert there.read_bytes() == here.read_bytes()
        assert (flow_file(there).exists(), flow_file(here).exists()) == (False, True)
    with pytest.raises(InputError, match="no optical flow"):
        check_data(recipe(), Path(plain.outputs["store"]))


def test_a_killed_run_resumes_and_writes_missing_flow_again(
    root: Path, result: StageResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("slowfast_core.stages.extract.data_version", killed)
        with pytest.raises(KeyboardInterrupt):
            run(root, "killed")
    clips = root / ".killed.partial" / "store" / "clips"
    flow_file(clips / "b.mp4").unlink()
    before = {path: path.stat().st_mtime_ns for path in clips.iterdir()}
    assert run(root, "killed").data_version == result.data_version
    assert all((root / "killed/store/clips" / path.name).stat().st_mtime_ns == time for path, time in before.items())


def test_an_incomplete_flow_file_is_reported(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", shifted_frames(3))
    flow_file(video).write_bytes(b"PK torn")
    with pytest.raises(DecodeError, match=r"v\.flow\.npz: not a readable flow"):
        decode_with_flow(video, [0])


def test_views_mirror_and_scale_the_flow_with_the_frames() -> None:
    frames_THWC = torch.randint(0, 256, (2, 24, 36, 5), dtype=torch.uint8)
    whole = View(0, 0, 36, 24, 24, 36)
    for order in ("rgb", "bgr"):
        plain_CTHW = render(frames_THWC, whole, Pixels(order=order))
        assert torch.equal(plain_CTHW[:3], render(frames_THWC[..., :3], whole, Pixels(order=order)))
        steps_CTHW = frames_THWC[..., 3:].permute(3, 0, 1, 2).float() - NO_MOTION
        torch.testing.assert_close(plain_CTHW[3:], steps_CTHW / FLOW_STD)
    flipped_CTHW = render(frames_THWC, View(0, 0, 36, 24, 24, 36, flip=True), Pixels())
    sign_C = torch.tensor([1, 1, 1, -1, 1]).reshape(5, 1, 1, 1)
    torch.testing.assert_close(flipped_CTHW, render(frames_THWC, whole, Pixels()).flip(3) * sign_C, atol=1e-4, rtol=0)
    even_THWC = torch.full((1, 24, 36, 5), NO_MOTION + 10, dtype=torch.uint8)
    stretched_CTHW = render(even_THWC, View(3, 2, 18, 10, 30, 36), Pixels())
    torch.testing.assert_close(stretched_CTHW[3], torch.full((1, 30, 36), 10 * 2 / FLOW_STD))
    torch.testing.assert_close(stretched_CTHW[4], torch.full((1, 30, 36), 10 * 3 / FLOW_STD))


def samples_of(store: Path, cache_mb: int) -> list[Sample]:
    manifest = read_manifest(store / "manifest.parquet").split("train")
    clips = TrainingClips(store, manifest, recipe().clip, recipe().train, 2, 0, cache_mb, flow=True)
    return Batch.of([clips[0, draw] for draw in (0, 1)]).samples


def test_samples_from_the_cache_have_the_flow_of_the_file(store: Path) -> None:
    for read, cached in zip(samples_of(store, 0), samples_of(store, 10), strict=True):
        assert (read.frames.shape, read.frames.dtype) == ((4, 48, 64, 5), torch.uint8)
        assert torch.equal(read.frames, cached.frames)


def test_a_network_is_trained_and_evaluated_on_flow(store: Path, root: Path, tmp_path: Path) -> None:
    tiny = recipe()
    samples = samples_of(store, 0)
    torch.manual_seed(0)
    network = build_model(tiny.model, tiny.clip)
    outcome = forward_loss(network.train(), samples, tiny.train, tiny.model, torch.device("cpu"))
    outcome.mean.backward()  # type: ignore[no-untyped-call]
    make_optimizer(network, tiny.train).step()
    save_weights(tmp_path / "model.safetensors", network.state_dict())
    record = {"labels": ["left", "right"], "weights_digest": weights_digest(network.state_dict())}
    (tmp_path / "checkpoint.json").write_text(json.dumps({**json.loads(tiny.to_json()), **record}))
    scorer = Scorer(tmp_path)
    for video in (store / "clips" / "c.mp4", root / "ingest" / "videos" / "2.mp4"):  # with and without a flow file
        scores_A = scorer.score_video(video)
        assert scores_A.shape == (2,)
        assert scores_A.sum() == pytest.approx(1, abs=1e-5)
